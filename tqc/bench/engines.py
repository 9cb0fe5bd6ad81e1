"""What a whole model runs in: artifacts in tqc's runtime, ONNX files in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqc.artifact import verify
from tqc.codec.form import EXACT_DTYPES
from tqc.errors import SessionError, TqcError
from tqc.eval.forcing import Decoder
from tqc.eval.onnx_session import OnnxSession
from tqc.eval.opening import about
from tqc.eval.results import Model
from tqc.runtime import Session, load


@dataclass(frozen=True)
class Engine:
    """A model that can be opened: `open(batch, tokens)` for so many sequences of at most so many tokens each.

    `exact`: its cache loses nothing. `max_context`: the longest sequence, None if it does not say.
    """

    model: Model
    open: Callable[[int, int], Decoder]
    vocab: int
    exact: bool
    max_context: int | None = None

    @property
    def name(self) -> str:
        return self.model.name


def artifact_engine(path: Path, device: str) -> Engine:
    """An artifact on `device`. Raises TqcError if it is damaged, has no cache, or does not run there."""
    manifest = verify(path)
    if manifest.forward:
        raise SessionError("a model without a cache has no decode steps to time", where=str(path))
    load(path, device, max_context=1, verify=False)  # what is wrong with the device is said now

    def start(batch: int, tokens: int) -> Session:
        return load(path, device, batch=batch, max_context=tokens, verify=False)

    exact = all({layer.k, layer.v} <= set(EXACT_DTYPES) for layer in manifest.layers)
    return Engine(about(path, manifest), start, manifest.vocab_size, exact, manifest.max_context)


def onnx_engine(path: Path, threads: int, vocab: int) -> Engine:
    """An ONNX decoder on the CPU. Raises TqcError if it cannot be read."""
    from tqc.frontend.load import load as read_onnx

    found = Model(name=f"onnxruntime {path.absolute().parent.name}", digest=read_onnx(path).sha256(), kind="onnx")

    def start(batch: int, tokens: int) -> Any:
        return OnnxSession(path, threads=threads, batch=batch)

    return Engine(found, start, vocab, exact=True)


def open_engines(
    artifact: Path, references: Sequence[Path], onnx: Path | None, *, device: str, threads: int
) -> list[Engine]:
    """The artifact, then its peers, with names that differ. Raises TqcError for what cannot be compared."""
    if onnx and device != "cpu":
        raise TqcError(
            "onnxruntime runs on the CPU here", where="--onnx", expected="--device cpu, or --reference", found=device
        )
    engines = [artifact_engine(path, device) for path in (artifact, *references)]
    engines += [onnx_engine(onnx, threads, engines[0].vocab)] if onnx else []
    for path, engine in zip(references, engines[1:], strict=False):
        if engine.vocab != engines[0].vocab:
            raise TqcError(
                "the reference is another model",
                where=str(path),
                expected=f"{engines[0].vocab} tokens in the vocabulary",
                found=str(engine.vocab),
            )
    return _named_apart(engines)


def _named_apart(engines: Sequence[Engine]) -> list[Engine]:
    """Equal names get numbers."""
    seen: dict[str, int] = {}
    made = []
    for engine in engines:
        seen[engine.name] = count = seen.get(engine.name, 0) + 1
        name = engine.name if count == 1 else f"{engine.name} ({count})"
        made.append(replace(engine, model=engine.model.model_copy(update={"name": name})))
    return made
