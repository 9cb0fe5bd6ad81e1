"""Retrieval over distance: how often a needle at a depth of a text of some length is found, for each cache.

A file of needles is a JSON object:

    {"benchmark": …, "date": …, "command": …, "machine": {…}, "method": …,     as benchmarks/report.py writes them
     "model": "needle-8m",
     "panels": [{"cache": "tq4",
                 "cells": [{"length": 4096, "depth": 0.5, "found": 7, "asked": 8}, …],
                 "costs": [{"length": 4096, "cache_bytes": 9400320, "tokens_per_second": 310.5}, …]}, …]}

Instead of panels it may have the `runs` of `benchmarks/needle.py`, one for each artifact, length and haystack.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from .measured import Measured, Part, read

MADE_BY = "python benchmarks/needle.py"
Positive = Annotated[int, Field(gt=0)]


class Cell(Part):
    """`found` of `asked` needles at `depth` (0: start of the text, 1: its end) of `length` tokens."""

    length: Positive
    depth: Annotated[float, Field(ge=0, le=1)]
    found: Annotated[int, Field(ge=0)]
    asked: Positive

    @model_validator(mode="after")
    def _possible(self) -> Cell:
        if self.found > self.asked:
            raise ValueError(f"{self.found} needles found of {self.asked}")
        return self


class Cost(Part):
    """Bytes of the whole cache and speed of decoding when the text has `length` tokens."""

    length: Positive
    cache_bytes: Annotated[int, Field(ge=0)]
    tokens_per_second: Annotated[float, Field(gt=0)] | None = None


class Panel(Part):
    """One cache; `cache` is its scheme or another short name."""

    cache: str
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]
    costs: tuple[Cost, ...] = ()

    @property
    def score(self) -> float:
        """Share of all needles that was found."""
        return share(self.cells)

    def at(self, length: int, depth: float) -> float | None:
        """Share found at one place; None if nothing was asked there."""
        cells = [cell for cell in self.cells if (cell.length, cell.depth) == (length, depth)]
        return share(cells) if cells else None

    @property
    def longest(self) -> Cost | None:
        """What the longest text cost."""
        return max(self.costs, key=lambda cost: cost.length, default=None)


class Run(Part):
    """One haystack that `benchmarks/needle.py` asked one artifact about; `needles` at each depth."""

    artifact: str
    length: Positive
    needles: Positive
    found: dict[str, int]
    kv_bytes: Annotated[int, Field(ge=0)]
    decode_tokens_per_second: Annotated[float, Field(gt=0)]


class Needles(Measured):
    """Panels of one model."""

    model: str = ""
    panels: tuple[Panel, ...] = ()
    runs: tuple[Run, ...] = ()

    @model_validator(mode="after")
    def _of_runs(self) -> Needles:
        if not self.panels and not self.runs:
            raise ValueError("there are neither panels nor runs")
        if not self.panels:
            object.__setattr__(self, "panels", _panels(self.runs))
        return self


def _panels(runs: Sequence[Run]) -> tuple[Panel, ...]:
    """A panel for each artifact, under its name without a first word that all have."""
    names = list(dict.fromkeys(run.artifact for run in runs))
    first = names[0].partition("-")[0] + "-"
    common = first if len(names) > 1 and all(name.startswith(first) for name in names) else ""
    panels = []
    for name in names:
        own = [run for run in runs if run.artifact == name]
        cells = tuple(
            Cell(length=run.length, depth=float(depth), found=found, asked=run.needles)
            for run in own
            for depth, found in run.found.items()
        )
        panels.append(Panel(cache=name.removeprefix(common), cells=cells, costs=tuple(_costs(own))))
    return tuple(panels)


def _costs(runs: Sequence[Run]) -> Iterator[Cost]:
    """Bytes of the first haystack of each length, and the mean speed of all of them."""
    for length in sorted({run.length for run in runs}):
        same = [run for run in runs if run.length == length]
        speed = sum(run.decode_tokens_per_second for run in same) / len(same)
        yield Cost(length=length, cache_bytes=same[0].kv_bytes, tokens_per_second=speed)


def share(cells: Iterable[Cell]) -> float:
    """Needles found of those asked for."""
    cells = list(cells)
    return sum(cell.found for cell in cells) / sum(cell.asked for cell in cells)


def axes(panels: Iterable[Panel]) -> tuple[list[int], list[float]]:
    """All lengths and all depths that any panel has, ascending, so that panels can be compared place by place."""
    cells = [cell for panel in panels for cell in panel.cells]
    return sorted({cell.length for cell in cells}), sorted({cell.depth for cell in cells})


def read_needles(path: Path) -> Needles:
    """The panels of a file. Raises TqcError when it cannot be read."""
    return read(path, Needles, MADE_BY)
