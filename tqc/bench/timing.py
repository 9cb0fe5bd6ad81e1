"""Candidates that take turns, each checked before its time counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Literal

import numpy as np

from tqc.errors import TqcError

from .problem import error
from .results import Timing

Call = Callable[[], Any]
Timer = Callable[[Call], float]
"""Seconds that a call takes."""
Kind = Literal["ours", "peer", "append", "copy"]

COPIES_BYTES = 128 << 20
"""Of memory that the copies of one cache fill where caches are gone through in turn."""


@dataclass(frozen=True)
class Candidate:
    """One way to do a decode step. `calls` are gone through in turn, each with a copy of the cache of its own.

    `output()`: what the last call wrote, to be compared with `wanted` [batch, heads, rows] and its `tolerance`; None
    where nothing is compared. `bytes`: what one call has to read, None where that is not its cost.
    """

    calls: Sequence[Call]
    bytes: int | None = None
    output: Callable[[], np.ndarray] | None = None
    wanted: np.ndarray | None = None
    tolerance: float = 0.0


@dataclass(frozen=True)
class Maker:
    """A candidate that has not been made: `memory` bytes are needed for it. `exact`: nothing is lost in its cache."""

    name: str
    kind: Kind
    memory: int
    make: Callable[[], Candidate]
    exact: bool = False
    config: dict[str, int | float | str | bool] = field(default_factory=dict)

    def timing(self, **found: Any) -> Timing:
        """What the results say of it."""
        return Timing(name=self.name, kind=self.kind, exact=self.exact, config=self.config, **found)


@dataclass(frozen=True)
class Turns:
    """How candidates take turns: `repeats` times a call that is not counted and `calls` that are.

    `pause` seconds before each turn: threads of the one before stop spinning.
    """

    repeats: int
    calls: int
    timer: Timer
    pause: float = 0.0


def clock(call: Call) -> float:
    """Seconds of a call that returns when its work is done."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run_checked(makers: Sequence[Maker], turns: Turns) -> list[Timing]:
    """Makes all candidates, runs and checks each once, then times those that were right, in turn.

    One that cannot be made or run, or is wrong, has a `fault` and no times.
    """
    found: dict[str, Timing] = {}
    ready: dict[str, Candidate] = {}
    for maker in makers:
        try:
            candidate = maker.make()
            candidate.calls[0]()
            off = None if candidate.output is None else error(candidate.output(), candidate.wanted)
        except Exception as problem:  # engines' errors have no common base, and one engine must not stop the others
            found[maker.name] = maker.timing(fault=reason(problem))
            continue
        fault = ""
        if off is not None and not off <= candidate.tolerance:
            fault = f"wrong result: relative error {off:.2g}, at most {candidate.tolerance:g} is right"
        else:
            ready[maker.name] = candidate
        off = off if off is not None and np.isfinite(off) else None
        found[maker.name] = maker.timing(bytes=candidate.bytes, error=off, fault=fault)
    lost: dict[str, str] = {}
    endless = {name: cycle(candidate.calls) for name, candidate in ready.items()}
    samples = interleave(endless, turns, lambda name, problem: lost.__setitem__(name, reason(problem)))
    for name, rounds in samples.items():
        found[name] = found[name].model_copy(update={"rounds": rounds})
    for name, fault in lost.items():
        found[name] = found[name].model_copy(update={"fault": fault})
    return list(found.values())


def interleave(
    calls: Mapping[str, Iterator[Call]], turns: Turns, lost: Callable[[str, Exception], None]
) -> dict[str, tuple[tuple[float, ...], ...]]:
    """Seconds of every counted call, a tuple for each turn of each candidate.

    `lost` is told of an error in a call or in making it; that candidate has no further turns and no times.
    """
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in calls}
    for _ in range(turns.repeats):
        for name in list(rounds):
            time.sleep(turns.pause)
            try:
                turns.timer(next(calls[name]))
                rounds[name].append(tuple(turns.timer(next(calls[name])) for _ in range(turns.calls)))
            except Exception as problem:  # as in run_checked
                del rounds[name]
                lost(name, problem)
    return {name: tuple(own) for name, own in rounds.items()}


def reason(problem: BaseException) -> str:
    """The first lines of an error, in one line."""
    if isinstance(problem, TqcError):
        return "; ".join(part for part in (problem.what, problem.found) if part)[:300]
    text = " ".join(str(problem).split())
    return f"{type(problem).__name__}: {text}"[:300].rstrip(": ")


def copies(byte_count: int) -> int:
    """How many caches of this size fill `COPIES_BYTES`."""
    return max(1, -(-COPIES_BYTES // max(1, byte_count)))
