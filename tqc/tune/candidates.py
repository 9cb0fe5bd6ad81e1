"""Kernels of one schedule as candidates over the same filled cache, each with an output of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tqc.bench.filled_cache import FilledCache, Turns
from tqc.bench.problem import Geometry, Problem
from tqc.bench.timing import Candidate
from tqc.codec.layout import CacheLayout
from tqc.records.record import Cell

from .chunk import Chunk


@dataclass(frozen=True)
class Device:
    """How arrays get to the kernels. `upload(array)`; `upload_batch(array, batch)`: a state tensor of one sequence as
    that of so many; `copies(bytes)`: of a cache, gone through in turn; `tolerance`: of a relative error."""

    upload: Callable[[np.ndarray], Any]
    upload_batch: Callable[[np.ndarray, int], Any]
    copies: Callable[[int], int]
    tolerance: float


@dataclass(frozen=True)
class Decode:
    """One decode step: q, length, new_len, page table, state, y."""

    layout: CacheLayout
    cell: Cell
    dtype: str
    turns: Turns
    device: Device

    @cached_property
    def cache(self) -> FilledCache:
        return FilledCache(problem_of(self.layout, self.cell), self.layout, self.turns)

    @cached_property
    def states(self) -> list[list[Any]]:
        """Copies of the cache, which all candidates read."""
        one, device = self.cache.state, self.device
        count = device.copies(self.cache.bytes_read)
        return [[device.upload_batch(array, self.cell.batch) for array in one.values()] for _ in range(count)]

    @cached_property
    def inputs(self) -> list[Any]:
        return [self.device.upload(self.cache.query.astype(self.dtype)), *self.step(self.cell.context - 1, 1)]

    @cached_property
    def wanted(self) -> np.ndarray:
        return self.cache.wanted[:, :, None]

    @property
    def checked(self) -> list[int]:
        """Which tokens of the output are compared."""
        return [0]

    def step(self, length: int, new: int) -> list[Any]:
        """length, new_len and the page table."""
        counts = (np.full(self.cell.batch, count, np.int32) for count in (length, new))
        return [self.device.upload(array) for array in (*counts, self.cache.page_table)]

    def candidate(self, run: Callable[..., None]) -> Candidate:
        """A kernel whose output holds no number until it writes it."""
        shape = (self.cell.batch, self.layout.query_heads, self.cell.tokens, self.wanted.shape[-1])
        y = self.device.upload(np.full(shape, np.nan, self.dtype))
        return Candidate(
            calls=[lambda state=state: run(*self.inputs, *state, y) for state in self.states],
            output=lambda: y.numpy()[:, :, self.checked],
            wanted=self.wanted,
            tolerance=self.device.tolerance,
        )


@dataclass(frozen=True)
class Prefill(Decode):
    """A chunk of `cell.tokens` tokens behind `cell.context` cached ones: q, k, v before what decode takes."""

    @cached_property
    def cache(self) -> Chunk:
        return Chunk(problem_of(self.layout, self.cell), self.layout, self.turns, tokens=self.cell.tokens)

    @cached_property
    def inputs(self) -> list[Any]:
        cache, batch = self.cache, self.cell.batch
        fresh = [np.ascontiguousarray(np.broadcast_to(x, (batch, *x.shape))) for x in cache.fresh.values()]
        vectors = [self.device.upload(array.astype(self.dtype)) for array in (cache.queries, *fresh)]
        return [*vectors, *self.step(self.cell.context, self.cell.tokens)]

    @cached_property
    def wanted(self) -> np.ndarray:
        return self.cache.wanted

    @property
    def checked(self) -> list[int]:
        return self.cache.checked


CASES: dict[str, type[Decode]] = {"decode": Decode, "prefill": Prefill}


def problem_of(layout: CacheLayout, cell: Cell) -> Problem:
    """The vectors of a cell's cache."""
    return Problem(Geometry(layout.query_heads, layout.kv_heads, layout.head_dim), cell.batch, cell.context)
