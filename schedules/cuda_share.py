"""The tiles of a sequence's cache, dealt out to workers: coded pages first, then the tail, then the sinks.

Tiles are numbered through over the three regions, and worker w of n takes every tile with number ≡ w (mod n).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr

from tqc.schedules.cuda_builder import at_least_zero, i32
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_ptx import hold


@dataclass(frozen=True)
class Region:
    """`count` tiles, the number of the first one among all tiles, and the page of the sequence that it is."""

    before: Expr
    count: Expr
    first: Expr


@dataclass(frozen=True)
class Regions:
    """The tiles that hold the first `held` tokens of a sequence from position `oldest` on."""

    coded: Region
    tail: Region
    sinks: Region
    total: Expr

    @classmethod
    def of(cls, cache: Cache, held: Expr, oldest: Expr) -> Regions:
        layout = cache.layout
        pages = cache.pages(cache.coded(held))
        first = hold(tirx.floordiv(at_least_zero(oldest - layout.sinks), i32(layout.page)))
        coded = Region(i32(0), hold(at_least_zero(pages - first)), first)
        exact = hold(tirx.max(first, pages))
        in_tail = at_least_zero(cache.pages(cache.after_sinks(held)) - exact) if layout.recent else i32(0)
        tail = Region(coded.count, hold(in_tail), exact)
        sinks = Region(
            hold(coded.count + tail.count),
            hold(tirx.Select(held > 0, i32(1), i32(0))) if layout.sinks else i32(0),
            i32(0),
        )
        return cls(coded, tail, sinks, hold(sinks.before + sinks.count))


@dataclass(frozen=True)
class Worker:
    """Worker `index` of `count`."""

    index: Expr
    count: Expr

    def share(self, region: Region) -> tuple[Expr, Expr]:
        """(the first tile of the region that is this worker's, counted in the region; how many are)."""
        start = hold(tirx.floormod(self.index + self.count - tirx.floormod(region.before, self.count), self.count))
        return start, hold(tirx.floordiv(at_least_zero(region.count - start + self.count - 1), self.count))

    def page(self, region: Region, start: Expr, i: Expr) -> Expr:
        """The page of the sequence that is number i of the share."""
        return region.first + start + i * self.count
