"""Lines through the times of a decode step over the context, and where ours become quicker than a peer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from .fit import break_even, fit
from .results import AttentionBench, Cell, Crossing, EngineLine, ModelBench

T = TypeVar("T", AttentionBench, ModelBench)
STATISTICS = ("median", "minimum")


def summarised(results: T) -> T:
    """The results with `lines` and `crossings` computed anew from all cells."""
    lines, crossings = [], []
    for cells in _groups(results.steps):
        own = engine_lines(cells)
        lines += own
        crossings += _crossings(own, cells)
    return results.model_copy(update={"lines": tuple(lines), "crossings": tuple(crossings)})


def engine_lines(cells: Sequence[Cell]) -> list[EngineLine]:
    """The lines of all engines in cells of the same heads and batch; none of an engine with fewer than two contexts."""
    made = []
    kinds = {timing.name: timing.kind for cell in cells for timing in cell.timings}
    for name, kind in kinds.items():
        pairs = [(cell, timing) for cell in cells if (timing := cell.of(name))]
        found = {
            what: fit([(timing.tokens or cell.context, getattr(timing, what)) for cell, timing in pairs])
            for what in STATISTICS
        }
        if kind in ("ours", "peer") and all(found.values()):
            made.append(EngineLine(heads=cells[0].heads, batch=cells[0].batch, engine=name, kind=kind, **found))
    return made


def _groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells of the same heads and batch, in the order in which they come."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.heads, cell.batch), []).append(cell)
    return list(groups.values())


def _crossings(lines: Iterable[EngineLine], cells: Sequence[Cell]) -> list[Crossing]:
    """Each line of ours against that of each peer."""
    tokens = [timing.tokens or cell.context for cell in cells for timing in cell.timings if timing.rounds]
    span = (min(tokens, default=0), max(tokens, default=0))
    ours, peers = ([line for line in lines if line.kind == kind] for kind in ("ours", "peer"))
    return [
        Crossing(
            heads=own.heads,
            batch=own.batch,
            engine=own.engine,
            peer=peer.engine,
            measured=quicker_from(cells, own.engine, peer.engine),
            **{what: break_even(getattr(own, what), getattr(peer, what), span) for what in STATISTICS},
        )
        for own in ours
        for peer in peers
    ]


def quicker_from(cells: Sequence[Cell], engine: str, peer: str) -> int | None:
    """The shortest context from which on `engine` has the smaller median in every cell where both have times."""
    found = None
    for cell in sorted(cells, key=lambda cell: cell.context, reverse=True):
        ours, theirs = cell.of(engine), cell.of(peer)
        if ours and theirs:
            if ours.median >= theirs.median:
                break
            found = cell.context
    return found
