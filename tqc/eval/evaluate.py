"""Everything that `tqc eval` measures of an artifact, section by section, each kept as soon as it is known."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqc import __version__
from tqc.artifact import Manifest
from tqc.artifact.embed import identity
from tqc.errors import SessionError, TqcError
from tqc.eval.cache_size import cache_bytes, default_contexts
from tqc.eval.distortion import measure_layers
from tqc.eval.document import COMPARED, Document, hardware, now
from tqc.eval.forcing import Decoder
from tqc.eval.results import SECTIONS, Cell, Model, Results, Section, Text, merged
from tqc.eval.retrieval import DEPTHS, TASKS, Haystack, score, text_tasks
from tqc.eval.texts import prose
from tqc.eval.windows import measure_window, summed, windows
from tqc.runtime import Session, load
from tqc.runtime.tokenizer import TextTokenizer

Progress = Callable[[str, float], None]
LONGEST_ANSWER = 64
"""Tokens that a retrieval task leaves for its answer, at most."""


@dataclass(frozen=True)
class Settings:
    """What to measure. `tokens`: predictions of fidelity, and tokens whose codes are compared; `chunk`: tokens a step
    (see `teacher_forced`). `lengths` and `depths` of retrieval prompts, `trials` of each task at each; without lengths
    a quarter, a half and all of the context. `contexts`: lengths whose cache is priced; some by default."""

    sections: Sequence[Section] = SECTIONS
    tokens: int = 2048
    chunk: int = 1
    lengths: Sequence[int] = ()
    depths: Sequence[float] = DEPTHS
    tasks: Sequence[str] = TASKS
    trials: int = 1
    contexts: Sequence[int] = ()
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Raises TqcError for values that make no sense for any artifact."""
        checks = [
            ("sections", bool(self.sections) and set(self.sections) <= set(SECTIONS), ", ".join(SECTIONS)),
            ("tokens", self.tokens >= 1, "1 or more"),
            ("chunk", self.chunk >= 1, "1 or more"),
            ("trials", self.trials >= 1, "1 or more"),
            ("depths", bool(self.depths) and all(0 <= depth <= 1 for depth in self.depths), "0 to 1"),
            ("tasks", bool(self.tasks) and set(self.tasks) <= set(TASKS), ", ".join(TASKS)),
        ]
        for name, fine, expected in checks:
            if not fine:
                raise TqcError("an option is out of range", where=name, expected=expected, found=_say(self, name))


def _say(settings: Settings, name: str) -> str:
    value = getattr(settings, name)
    return str(value) if isinstance(value, int) else ", ".join(map(str, value)) or "nothing"


def evaluate(
    artifact: Path,
    settings: Settings | None = None,
    *,
    reference: Path | None = None,
    text: Path | None = None,
    output: Path | None = None,
    force: bool = False,
    progress: Progress = lambda step, fraction: None,
) -> Results:
    """Measures an artifact on a text (a file, or Python's documentation), beside a reference if there is one.

    `reference`: an artifact, usually with an exact cache, or the ONNX file. With `output` every finished part is kept
    in that file, and a run with the same arguments goes on from there (see `Document`). `progress` is called with the
    step and the done fraction of its section. Raises TqcError for what cannot be measured, before any section begins
    where that can be known.
    """
    return _Run(artifact, settings or Settings(), reference, text, output, force, progress).run()


class _Run:
    def __init__(
        self,
        artifact: Path,
        settings: Settings,
        reference: Path | None,
        text: Path | None,
        output: Path | None,
        force: bool,
        progress: Progress,
    ) -> None:
        self.settings, self.progress = settings, progress
        progress("loading", 0.0)
        session = load(artifact, settings.device)
        if not isinstance(session, Session):
            raise SessionError("a model without a cache cannot be evaluated", where=str(artifact))
        self.session = session
        self.limit = session.max_context
        self.reference: Decoder | None = None
        other = None
        if reference is not None and COMPARED & set(settings.sections):
            self.reference, other, limit = _open_reference(reference, settings.device, session.vocab_size)
            self.limit = min(self.limit, limit or self.limit)
        about = None
        if set(settings.sections) - {"bytes"}:
            self.text = _read(text)
            tokenizer = TextTokenizer(artifact, session.manifest)
            self.tokenizer, self.ids = tokenizer, tokenizer.encode(self.text)
            about = Text(
                name=text.name if text else "Python documentation (pydoc topics)",
                sha256=hashlib.sha256(self.text.encode()).hexdigest(),
                tokens=len(self.ids),
            )
        self._check()
        fresh = Results(
            tqc_version=__version__,
            created=now(),
            updated=now(),
            artifact=_model(artifact, session.manifest),
            reference=other,
            text=about,
            hardware=hardware(settings.device),
            settings={section: self._settings(section) for section in settings.sections},
        )
        self.document = Document(output, fresh, force=force)

    def _check(self) -> None:
        """Refuses what a section would refuse later."""
        sections, limit = self.settings.sections, self.limit
        if "fidelity" in sections and len(self.ids) <= self.settings.tokens:
            raise TqcError(
                "the text is too short",
                expected=f"more than {self.settings.tokens} tokens (--tokens)",
                found=f"{len(self.ids)} tokens",
            )
        if "retrieval" in sections:
            for length in self.lengths:
                if not 1 <= length <= limit - LONGEST_ANSWER:
                    raise TqcError(
                        "a retrieval prompt does not fit the context",
                        expected=f"at most {limit - LONGEST_ANSWER} tokens, {LONGEST_ANSWER} left for the answer",
                        found=f"{length} tokens",
                        hint="choose other --lengths, or leave retrieval out with --only",
                    )
            stack = Haystack(self.tokenizer, self.text)
            for length in self.lengths:
                for task in self.settings.tasks:
                    next(text_tasks(stack, task, length, 0.0, 1))
        if "bytes" in sections:
            cache_bytes(self.session.manifest, self.contexts)

    @property
    def window(self) -> int:
        return min(self.limit, self.settings.tokens)

    @property
    def lengths(self) -> list[int]:
        """Lengths of retrieval prompts, ascending."""
        longest = self.limit - LONGEST_ANSWER
        return sorted(set(self.settings.lengths or [longest // 4, longest // 2, longest]))

    @property
    def contexts(self) -> list[int]:
        return sorted(set(self.settings.contexts or default_contexts(self.session.max_context)))

    def _settings(self, section: Section) -> dict:
        """What decides the numbers of a section, as it is kept with them."""
        chosen = self.settings
        return {
            "fidelity": {"tokens": chosen.tokens, "chunk": chosen.chunk, "window": self.window},
            "distortion": {"tokens": self._compared},
            "logits": {"tokens": self._compared, "seed": chosen.seed},
            "retrieval": {
                "tasks": ", ".join(chosen.tasks),
                "lengths": self.lengths,
                "depths": [float(depth) for depth in chosen.depths],
                "trials": chosen.trials,
                "seed": chosen.seed,
            },
            "bytes": {"contexts": self.contexts},
        }[section]

    @property
    def _compared(self) -> int:
        """Tokens whose codes are compared: one window of the artifact's own context."""
        return min(self.settings.tokens, self.session.max_context)

    def run(self) -> Results:
        for section in SECTIONS:
            if section in self.settings.sections and not self.document.finished(section):
                getattr(self, f"_{section}")()
        return self.document.results

    def _bytes(self) -> None:
        self.document.finish("bytes", 0.0, bytes=cache_bytes(self.session.manifest, self.contexts))

    def _distortion(self) -> None:
        wanted = {"distortion", "logits"} & set(self.settings.sections) - set(self.document.results.finished)
        start = time.perf_counter()
        layers = measure_layers(
            self.session,
            self.ids[: self._compared],
            logits="logits" in wanted,
            seed=self.settings.seed,
            progress=lambda done, total: self.progress("codes against theory", done / total),
        )
        self.document.finish(
            "distortion", time.perf_counter() - start, layers=merged(self.document.results.layers, layers)
        )
        if "logits" in wanted:  # of the same pass
            self.document.finish("logits", 0.0)

    def _logits(self) -> None:
        start = time.perf_counter()
        layers = measure_layers(
            self.session,
            self.ids[: self._compared],
            seed=self.settings.seed,
            progress=lambda done, total: self.progress("noise of logits", done / total),
        )
        self.document.finish("logits", time.perf_counter() - start, layers=merged(self.document.results.layers, layers))

    def _fidelity(self) -> None:
        ids, document = self.ids[: self.settings.tokens + 1], self.document
        parts = list(document.results.fidelity.windows if document.results.fidelity else ())
        pieces = windows(ids, self.window)
        for number in range(len(parts), len(pieces)):
            start, before = time.perf_counter(), sum(part.tokens for part in parts)
            parts.append(
                measure_window(
                    self.session,
                    self.reference,
                    pieces[number],
                    chunk=self.settings.chunk,
                    progress=lambda done, before=before: self.progress(
                        "fidelity" if self.reference else "perplexity", (before + done) / self.settings.tokens
                    ),
                )
            )
            total = summed(
                parts,
                wanted=self.settings.tokens,
                window=self.window,
                chunk=self.settings.chunk,
                compared=self.reference is not None,
            )
            self._keep("fidelity", start, number + 1 == len(pieces), fidelity=total)

    def _retrieval(self) -> None:
        chosen, document = self.settings, self.document
        cells = list(document.results.retrieval or ())
        held = {(cell.task, cell.length, cell.depth) for cell in cells}
        plan = [(task, n, float(depth)) for n in self.lengths for task in chosen.tasks for depth in chosen.depths]
        stack = Haystack(self.tokenizer, self.text)
        for number, (task, length, depth) in enumerate(plan, 1):
            self.progress(f"retrieval: {task}, {length} tokens", (number - 1) / len(plan))
            start = time.perf_counter()
            if (task, length, depth) not in held:
                made = list(text_tasks(stack, task, length, depth, chosen.trials, chosen.seed))
                cells.append(
                    Cell(
                        task=task,
                        length=length,
                        depth=depth,
                        correct=score(self.session, made),
                        total=len(made),
                        reference_correct=score(self.reference, made) if self.reference else None,
                    )
                )
            self._keep("retrieval", start, number == len(plan), retrieval=tuple(cells))

    def _keep(self, section: Section, start: float, complete: bool, **changes: object) -> None:
        seconds = time.perf_counter() - start
        if complete:
            self.document.finish(section, seconds, **changes)
        else:
            before = self.document.results.seconds
            spent = {**before, section: round(before.get(section, 0.0) + seconds, 3)}
            self.document.update(**changes, seconds=spent)


def _model(path: Path, manifest: Manifest) -> Model:
    schemes = list(
        dict.fromkeys(layer.k if layer.k == layer.v else f"k:{layer.k},v:{layer.v}" for layer in manifest.layers)
    )
    return Model(
        name=path.absolute().name.removesuffix(".tqc"),
        digest=identity(manifest),
        schemes=schemes[0] if len(schemes) == 1 else "mixed",
    )


def _open_reference(path: Path, device: str, vocab: int) -> tuple[Decoder, Model, int | None]:
    """The reference, what it is, and the longest sequence it takes (None: it does not say)."""
    if path.is_dir():
        session = load(path, device)
        if not isinstance(session, Session) or session.vocab_size != vocab:
            raise TqcError(
                "the reference is another model",
                where=str(path),
                expected=f"a decoder with {vocab} tokens",
                found=f"{session.vocab_size} tokens" if isinstance(session, Session) else "a model without a cache",
            )
        return session, _model(path, session.manifest), session.max_context
    from tqc.eval.onnx_session import OnnxSession
    from tqc.frontend.load import load as read_onnx

    about = Model(name=path.absolute().parent.name, digest=read_onnx(path).sha256(), kind="onnx")
    try:
        return OnnxSession(path), about, None
    except TqcError:
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise TqcError("onnxruntime cannot run the reference", where=str(path), found=str(error)) from error


def _read(text: Path | None) -> str:
    if text is None:
        return prose()
    try:
        return text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TqcError("the text cannot be read", where=str(text), expected="UTF-8", found=str(error)) from error
