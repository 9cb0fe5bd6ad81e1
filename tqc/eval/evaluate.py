"""Everything that `tqc eval` measures of an artifact, section by section, each kept as soon as it is known."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from tqc.artifact.versions import installed
from tqc.errors import TqcError
from tqc.eval.cache_size import cache_bytes, default_contexts
from tqc.eval.distortion import measure_layers, shortest
from tqc.eval.document import COMPARED, Document, hardware, now
from tqc.eval.forcing import Decoder
from tqc.eval.opening import about, open_artifact, open_reference, read_text
from tqc.eval.results import SECTIONS, Cell, Results, Section, Text, merged
from tqc.eval.retrieval import Haystack, score, text_tasks
from tqc.eval.settings import Settings
from tqc.eval.windows import measure_window, summed, windows
from tqc.runtime.tokenizer import TextTokenizer

Progress = Callable[[str, float], None]
LONGEST_ANSWER = 64
"""Tokens that a retrieval task leaves for its answer, at most."""
LONGEST_PROMPT = 4096
"""Tokens of the retrieval prompts that are taken by default, at most: longer ones take long on a CPU."""


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
        self.session = session = open_artifact(artifact, settings.device)
        self.limit = session.max_context
        self.lengths: list[int] = []
        self.reference: Decoder | None = None
        other = None
        if reference is not None and COMPARED & set(settings.sections):
            self.reference, other, limit = open_reference(reference, settings.device, session.vocab_size)
            self.limit = min(self.limit, limit or self.limit)
        described = None
        if set(settings.sections) - {"bytes"}:
            self.text = read_text(text)
            tokenizer = TextTokenizer(artifact, session.manifest)
            self.tokenizer, self.ids = tokenizer, tokenizer.encode(self.text)
            described = Text(
                name=text.name if text else "Python documentation (pydoc topics)",
                sha256=hashlib.sha256(self.text.encode()).hexdigest(),
                tokens=len(self.ids),
            )
        self._check()
        fresh = Results(
            tqc_version=installed()["tqc_version"],
            created=now(),
            updated=now(),
            artifact=about(artifact, session.manifest),
            reference=other,
            text=described,
            hardware=hardware(settings.device),
            settings={section: self._settings(section) for section in settings.sections},
        )
        self.document = Document(output, fresh, force=force)

    def _check(self) -> None:
        """Refuses what a section would refuse later."""
        sections = self.settings.sections
        codes = bool({"distortion", "logits"} & set(sections))
        if (codes or "fidelity" in sections) and len(self.ids) <= self.settings.tokens:
            raise TqcError(
                "the text is too short",
                expected=f"more than {self.settings.tokens} tokens (--tokens)",
                found=f"{len(self.ids)} tokens",
            )
        needed = shortest(self.session.manifest)
        if codes and self._compared < needed:
            raise TqcError(
                "no page of the cache would be coded",
                expected=f"--tokens and a context of at least {needed} tokens",
                found=f"{self._compared} tokens",
                hint="leave distortion and logits out with --only, or compile with a smaller --recent",
            )
        if "retrieval" in sections:
            self.stack = Haystack(self.tokenizer, self.text)
            self.lengths = self._lengths()
        if "bytes" in sections:
            cache_bytes(self.session.manifest, self.contexts)

    @property
    def window(self) -> int:
        return min(self.limit, self.settings.tokens)

    def _lengths(self) -> list[int]:
        """Lengths of retrieval prompts, ascending; of those taken by default the ones that the tasks fit."""
        if self.settings.lengths:
            return self._checked(sorted(set(self.settings.lengths)))
        longest = min(self.limit - LONGEST_ANSWER, LONGEST_PROMPT)
        parts = (longest // 4, longest // 2)
        return [length for length in parts if self._unfit(length) is None] + self._checked([longest])

    def _checked(self, lengths: list[int]) -> list[int]:
        for length in lengths:
            if not 1 <= length <= self.limit - LONGEST_ANSWER:
                raise TqcError(
                    "a retrieval prompt does not fit the context",
                    expected=f"1 to {self.limit - LONGEST_ANSWER} tokens: {LONGEST_ANSWER} are left for the answer",
                    found=f"{length} tokens",
                    hint="choose other --lengths, or leave retrieval out with --only",
                )
            if error := self._unfit(length):
                raise error
        return lengths

    def _unfit(self, length: int) -> TqcError | None:
        """Why there is a task without prompts of this length."""
        try:
            for task in self.settings.tasks:
                next(text_tasks(self.stack, task, length, 0.0, 1))
        except TqcError as error:
            return error
        return None

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
        for number, (task, length, depth) in enumerate(plan, 1):
            self.progress(f"retrieval: {task}, {length} tokens", (number - 1) / len(plan))
            start = time.perf_counter()
            if (task, length, depth) not in held:
                made = list(text_tasks(self.stack, task, length, depth, chosen.trials, chosen.seed))
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
