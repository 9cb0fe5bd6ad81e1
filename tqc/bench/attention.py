"""`tqc bench attention`: decode attention of one layer, over contexts and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqc.errors import TqcError
from tqc.eval.document import now

from .document import Document
from .machine import load_average, machine, versions
from .problem import Geometry, Problem
from .results import AttentionBench, AttentionCell
from .timing import Maker, Turns, run_checked

Progress = Callable[[str, float], None]
MOST_MEMORY = 0.85
"""Share of the free memory that the candidates of a cell may take together."""


class Bench(Protocol):
    """A machine with its candidates: `tqc.bench.cpu`, `tqc.bench.cuda`, or a test's own."""

    name: str
    kv: list[str]
    contexts: Sequence[int]
    batches: Sequence[int]

    @property
    def device(self) -> dict[str, Any]: ...

    def turns(self, repeats: int) -> Turns: ...

    def free_bytes(self) -> int | None: ...

    def check(self, geometry: Geometry) -> None: ...

    def notes(self) -> list[str]: ...

    def makers(self, problem: Problem) -> Iterable[Maker]: ...

    def release(self) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What to measure; without contexts and batches those that the target has by default."""

    geometries: Sequence[Geometry]
    contexts: Sequence[int] = ()
    batches: Sequence[int] = ()
    repeats: int = 8

    def __post_init__(self) -> None:
        """Raises TqcError for values that make no sense."""
        if not self.geometries or min((self.repeats, *self.contexts, *self.batches)) < 1:
            raise TqcError(
                "an option is out of range",
                where="--heads, --contexts, --batch, --repeats",
                expected="numbers of 1 or more",
                found=f"{', '.join(map(str, self.geometries))}; contexts {self.contexts}; batches {self.batches}; "
                f"repeats {self.repeats}",
            )


def bench_attention(
    bench: Bench,
    settings: Settings,
    *,
    folder: Path | None = None,
    force: bool = False,
    command: str = "",
    progress: Progress = lambda step, fraction: None,
) -> Document[AttentionBench]:
    """Times all cells that `folder` does not hold yet. Raises TqcError for what cannot be measured at all; what a
    single candidate cannot do is a fault in its place of the results."""
    for geometry in settings.geometries:
        bench.check(geometry)
    turns = bench.turns(settings.repeats)
    fresh = AttentionBench(
        created=now(),
        updated=now(),
        machine=machine() | {"device": bench.device},
        versions=versions(),
        commands=(command,) if command else (),
        settings={"target": bench.name, "kv": bench.kv, "repeats": turns.repeats, "calls": turns.calls},
        notes=tuple(bench.notes()),
    )
    document = Document(folder, fresh, force=force)
    plan = [
        Problem(geometry, batch, context)
        for geometry in settings.geometries
        for batch in sorted(set(settings.batches or bench.batches))
        for context in sorted(set(settings.contexts or bench.contexts))
    ]
    for number, problem in enumerate(plan):
        empty = AttentionCell(heads=str(problem.geometry), batch=problem.batch, context=problem.context)
        progress(f"{problem.geometry}, {problem.batch} × {problem.context}", number / len(plan))
        if not document.done(empty.key):
            document.keep("cells", measure(bench, problem, empty, turns))
            bench.release()
    return document


def measure(bench: Bench, problem: Problem, empty: AttentionCell, turns: Turns) -> AttentionCell:
    """One cell, unless its candidates need more memory than there is."""
    makers = list(bench.makers(problem))
    needed, free = sum(maker.memory for maker in makers), bench.free_bytes()
    if free is not None and needed > MOST_MEMORY * free:
        skipped = f"needs {needed / 2**30:.1f} GiB, of {free / 2**30:.1f} GiB that are free"
        return empty.model_copy(update={"skipped": skipped})
    before = load_average()
    timings = run_checked(makers, turns)
    return empty.model_copy(update={"timings": tuple(timings), "load": (before, load_average())})
