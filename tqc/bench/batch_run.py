"""The cells of one batch size of a whole model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tqc.eval.forcing import cache_bytes

from .document import Document
from .engines import Engine
from .machine import load_average
from .model_settings import Settings
from .results import DecodeCell, ModelBench, PrefillCell, Timing
from .timing import Turns, clock, interleave, reason

Progress = Callable[[str, float], None]
CHUNK = 512
"""Tokens of a sequence in one call when a cache is filled."""


class BatchRun:
    """All cells of one batch size: engines are opened once, and their caches only grow from context to context."""

    def __init__(
        self,
        engines: Sequence[Engine],
        settings: Settings,
        batch: int,
        contexts: Sequence[int],
        prompt: int,
        document: Document[ModelBench],
        progress: Progress,
    ) -> None:
        self.engines, self.settings, self.batch, self.document = engines, settings, batch, document
        self.progress, self.capacity = progress, contexts[-1]
        self.turns = Turns(settings.repeats, settings.new_tokens, clock, settings.pause)
        self.prefill = PrefillCell(batch=batch, context=prompt)
        self.decode = [DecodeCell(batch=batch, context=context, capacity=self.capacity) for context in contexts]
        self.sessions: dict[str, Any] = {}
        self.faults: dict[str, str] = {}

    @property
    def missing(self) -> list[DecodeCell | PrefillCell]:
        return [cell for cell in (self.prefill, *self.decode) if not self.document.done(cell.key)]

    def run(self) -> None:
        missing = self.missing
        self._attempt(lambda engine: self.sessions.__setitem__(engine.name, engine.open(self.batch, self.capacity)))
        rng = np.random.default_rng(self.batch)
        self.tokens = rng.integers(0, self.engines[0].vocab, (self.batch, self.capacity))
        if self.prefill in missing:
            self.progress("prefill", 0.0)
            self.document.keep("prefill", self._prefill())
        self._attempt(lambda engine: self.sessions[engine.name].reset())
        filled = 0
        for number, cell in enumerate(cell for cell in self.decode if cell in missing):
            self.progress(f"context {cell.context}", (1 + number) / (1 + len(self.decode)))
            start = cell.context - self.settings.steps
            if start < filled:  # contexts that lie closer than the steps of one
                self._attempt(lambda engine: self.sessions[engine.name].reset())
                filled = 0
            self._fill(filled, start)
            self.document.keep("decode", self._decode(cell, start))
            filled = cell.context

    def _attempt(self, act: Callable[[Engine], Any]) -> None:
        """Does something with every engine that has no fault yet."""
        for engine in self.engines:
            if engine.name not in self.faults:
                try:
                    act(engine)
                except Exception as error:  # engines' errors have no common base; the others go on
                    self._lost(engine.name, error)

    def _lost(self, name: str, error: Exception) -> None:
        self.faults[name] = reason(error)
        self.sessions.pop(name, None)

    def _fill(self, start: int, stop: int) -> None:
        """Appends the tokens `start` … `stop` − 1 to every cache."""
        edges = [*range(start, stop, CHUNK), stop]
        for first, last in pairwise(edges):
            if first < last:
                part = self.tokens[:, first:last].tolist()
                self._attempt(lambda engine, part=part: self.sessions[engine.name].prefill(part))

    def _prefill(self) -> PrefillCell:
        prompt = self.tokens[:, : self.prefill.context].tolist()

        def steps(engine: Engine) -> Iterator[Callable[[], Any]]:
            session = self.sessions[engine.name]
            while True:
                session.reset()
                yield lambda: session.prefill(prompt)

        return self._timed(self.prefill, steps, Turns(self.settings.repeats, 1, clock, self.settings.pause))

    def _decode(self, cell: DecodeCell, start: int) -> DecodeCell:
        def steps(engine: Engine) -> Iterator[Callable[[], Any]]:
            session = self.sessions[engine.name]
            for position in range(start, cell.context):
                step = self.tokens[:, position].tolist()
                yield lambda step=step: session.decode(step)

        timed = self._timed(cell, steps, self.turns)
        sizes: dict[str, int] = {}
        self._attempt(lambda engine: sizes.__setitem__(engine.name, cache_bytes(self.sessions[engine.name])))
        tokens = mean_tokens(start, self.settings.repeats, self.settings.new_tokens)
        timings = [
            timing.model_copy(update={"tokens": tokens, "bytes": sizes.get(timing.name)}) if timing.rounds else timing
            for timing in timed.timings
        ]
        return timed.model_copy(update={"timings": tuple(timings)})

    def _timed(self, cell: Any, steps: Callable[[Engine], Iterator[Callable[[], Any]]], turns: Turns) -> Any:
        """The cell with the times of every engine, which take turns. One that fails drops out of this batch size."""
        before = load_average()
        calls = {engine.name: steps(engine) for engine in self.engines if engine.name in self.sessions}
        rounds = interleave(calls, turns, self._lost)
        timings = [
            Timing(
                name=engine.name,
                kind="peer" if number else "ours",
                exact=engine.exact,
                rounds=rounds.get(engine.name, ()),
                fault=self.faults.get(engine.name, ""),
            )
            for number, engine in enumerate(self.engines)
        ]
        return cell.model_copy(update={"timings": tuple(timings), "load": (before, load_average())})


def mean_tokens(start: int, repeats: int, new_tokens: int) -> float:
    """Tokens in the cache at the counted steps, the new one included, on average: of each turn all but the first."""
    last = start + repeats * (new_tokens + 1)
    return (start + 2 + last) / 2
