"""Runs a model on a prompt, takes the times and compares two runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..artifact.settings import Search
from ..artifact.summary import exact_bytes, page_bytes
from ..errors import SessionError
from ..runtime.kv_bytes import KvBytes
from ..runtime.session import Session, load
from ..runtime.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Request:
    """What to generate; the fields are the options of `tqc generate`."""

    prompt: str
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    chat: bool = False


@dataclass(frozen=True)
class Model:
    """A loaded artifact with its tokenizer."""

    session: Session
    tokenizer: TextTokenizer

    def encode(self, request: Request) -> list[int]:
        """Token ids of the prompt; an empty one is the token that starts a text, where the model has one."""
        ids = self.tokenizer.chat(request.prompt) if request.chat else self.tokenizer.encode(request.prompt)
        start = self.tokenizer.settings.bos_id
        return [start] if not ids and start is not None else ids

    def search(self) -> Search:
        """How the model's authors draw tokens. Raises SessionError when the artifact's settings do not say."""
        found = self.tokenizer.settings.search
        if not found.temperature:
            raise SessionError(
                "The artifact's settings do not say how to draw tokens",
                where=self.session.path.name,
                expected="do_sample, temperature, top_k or top_p in generation_config.json or genai_config.json",
                hint="leave --sample out, or pass --temperature",
            )
        return found


@dataclass(frozen=True)
class Run:
    """One generation with its times. `tokens_per_second` leaves out the first token, which prefill gives."""

    name: str
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    prefill_seconds: float
    tokens_per_second: float | None
    kv: KvBytes
    full_compression: float

    def as_json(self) -> dict:
        derived = {"used": self.kv.used, "page_compression": self.kv.page_compression}
        return {**asdict(self), "kv": {**asdict(self.kv), **derived, "compression": self.kv.compression}}


@dataclass(frozen=True)
class Agreement:
    """How two runs of the same request compare.

    `same_prefix` counts tokens before the first difference. `matching` of `compared` tokens of the first run are what
    the second model would have said after the same text; None unless tokens are chosen greedily.
    """

    same_prefix: int
    compared: int
    matching: int | None

    def as_json(self) -> dict:
        return asdict(self)

    def text(self) -> str:
        """For people."""
        prefix = f"The first {self.same_prefix} tokens are the same."
        if self.matching is None:
            return prefix
        share = 100 * self.matching / self.compared
        return (
            f"{prefix} Fed the same text, the two agree on {self.matching} of {self.compared} tokens ({share:.1f} %)."
        )


def open_model(path: Path, device: str = "cpu", max_context: int | None = None) -> Model:
    """Loads an artifact, and runs two tokens through it so that reading the weights is not counted as computing."""
    session = load(path, device, max_context=max_context)
    if session.manifest.forward:
        session.generate()  # says what the model has instead
    tokenizer = TextTokenizer(path, session.manifest)
    if session.max_context >= 2:
        session.prefill([0])
        session.decode([0])
        session.reset()
    return Model(session, tokenizer)


def run(model: Model, request: Request, say: Callable[[str], None] | None = None) -> Run:
    """Generates from an empty cache; `say` gets the text piece by piece. Raises SessionError as `generate` does."""
    session, tokenizer = model.session, model.tokenizer
    session.reset()
    ids = model.encode(request)
    if not ids:
        raise SessionError("The prompt is empty", hint="give at least one word, or use --chat")
    stop = tokenizer.stop_ids
    steps = session.generate(
        ids,
        request.max_new_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=request.seed,
        stop=stop,
    )
    tokens: list[int] = []
    times = [time.perf_counter()]

    def timed() -> Iterator[int]:
        for token in steps:
            times.append(time.perf_counter())
            tokens.append(token)
            if token not in stop:
                yield token

    pieces = []
    for piece in tokenizer.stream(timed()):
        pieces.append(piece)
        if say is not None:
            say(piece)
    if say is not None:
        say("\n")
    decoded = len(tokens) - 1
    return Run(
        name=session.path.name,
        text="".join(pieces),
        tokens=tuple(tokens),
        prompt_tokens=len(ids),
        prefill_seconds=times[1] - times[0],
        tokens_per_second=decoded / (times[-1] - times[1]) if decoded else None,
        kv=session.kv_bytes,
        full_compression=_full_compression(session),
    )


def _full_compression(session: Session) -> float:
    """fp16 bytes over our bytes, exact buffers included, for a sequence of `max_context` tokens."""
    manifest, length = session.manifest, session.max_context
    ours = exact_bytes(manifest) + -(-manifest.cache.coded(length) // manifest.cache.page) * page_bytes(manifest)
    return length * sum(layer.fp16_bytes_per_token for layer in manifest.layers) / ours


def agreement(reference: Model, request: Request, tokens: tuple[int, ...], other: tuple[int, ...]) -> Agreement:
    """Compares `tokens` with the `other` run's, and with what `reference` says when it is fed `tokens`."""
    pairs = zip(tokens, other, strict=False)
    prefix = next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(other)))
    if request.temperature:
        return Agreement(prefix, len(tokens), None)
    session = reference.session
    session.reset()
    logits = [session.prefill(reference.encode(request))]
    logits += [session.decode([token]) for token in tokens[:-1]]
    matching = sum(int(row.argmax()) == token for row, token in zip(logits, tokens, strict=True))
    return Agreement(prefix, len(tokens), matching)
