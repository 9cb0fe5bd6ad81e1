"""Which configuration the records of a kernel speak for.

Times are only compared with times of the same turns: a configuration counts by its time relative to the default's, and
the geometric mean of that over the cells. A cell is a device, a context and a batch. Contexts beyond the longest that
the artifact serves are left out, unless nothing shorter was measured: then the shortest of them stand for the others.
A configuration has to be right in every cell that any was measured in, or it is not chosen: one that was only tried
where it does well would win otherwise. One that gains less than `LEAST_GAIN` is taken for equal to the default, since
repeated measurements differ by as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .record import Cell, Kernel, Record, Value

LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Best:
    """A configuration that is faster than the default: `relative` is its time by the default's, `cells` where."""

    config: dict[str, Value]
    relative: float
    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        devices = ", ".join(sorted({cell.device for cell in self.cells}))
        contexts = sorted({cell.context for cell in self.cells})
        span = f"{contexts[0]}" if len(contexts) == 1 else f"{contexts[0]} to {contexts[-1]}"
        return f"records of {devices}: {1 / self.relative:.2f} times the default's speed at {span} tokens"


def best(records: Iterable[Record], kernel: Kernel, longest: int | None = None) -> Best | str:
    """The fastest configuration for contexts of up to `longest` tokens, or in a word why it is the default.

    Of records with equal keys and of cells measured again with other compilers, the newest counts.
    """
    own = _latest(record for record in records if record.kernel == kernel)
    cells = _served({record.cell for record in own}, longest)
    if not cells:
        return "no records"
    found: dict[tuple, dict[Cell, Record]] = {}
    for record in own:
        if record.cell in cells and record.relative is not None:
            found.setdefault(tuple(sorted(record.config.items())), {})[record.cell] = record
    scores = {config: _mean(each) for config, each in found.items() if each.keys() == cells}
    if not scores:
        return "records that no configuration has in every cell"
    winner = min(sorted(scores, key=str), key=lambda config: scores[config])
    if scores[winner] > 1 - LEAST_GAIN:
        return "records: none is faster"
    return Best(dict(winner), scores[winner], tuple(sorted(cells, key=str)))


def _latest(records: Iterable[Record]) -> list[Record]:
    found: dict[tuple, Record] = {}
    for record in records:
        place = (record.cell, tuple(sorted(record.config.items())))
        if place not in found or found[place].date <= record.date:
            found[place] = record
    return list(found.values())


def _served(cells: set[Cell], longest: int | None) -> set[Cell]:
    short = {cell for cell in cells if longest is None or cell.context <= longest}
    shortest = min((cell.context for cell in cells), default=0)
    return short or {cell for cell in cells if cell.context == shortest}


def _mean(records: dict[Cell, Record]) -> float:
    return math.exp(math.fsum(math.log(record.relative) for record in records.values()) / len(records))
