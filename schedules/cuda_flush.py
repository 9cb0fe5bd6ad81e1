"""A page leaves the exact window on CUDA: its keys and values are encoded and written where they belong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.fragments import STRIPS, TOKENS
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import divide, phase, store
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books
from tqc.schedules.cuda_encode import BandWriter, Scratch, Value
from tqc.schedules.cuda_fragments import exact_element
from tqc.schedules.cuda_polar import PolarPage
from tqc.schedules.cuda_sketch import SketchScratch, SketchWriter


@dataclass(frozen=True)
class Flush:
    """Tables and scratch of a block that encodes pages. `seed`: that of the cache, which chooses its sketches."""

    layout: CacheLayout
    seed: int
    threads: int
    thresholds: Books
    centroids: Books
    scratch: Scratch
    sketches: SketchScratch | None

    @classmethod
    def declare(cls, layout: CacheLayout, seed: int, threads: int) -> Flush:
        """Fills the tables."""
        forms = tuple(layout.form(side) for side in "kv")
        thresholds = Books.declare(forms, threads, thresholds=True)
        centroids = Books.declare(forms, threads)
        return cls(layout, seed, threads, thresholds, centroids, Scratch.declare(layout), SketchScratch.declare(forms))

    def write(self, cache: Cache, at: tuple[Expr, ...], values: Mapping[str, Value]) -> None:
        """Writes both sides of a page. `at`: its place and the KV head; `values`: the exact vectors of each side."""
        for side, value in values.items():
            form = self.layout.form(side)
            units, scales = cache.state[f"{side}_codes"], cache.state.get(f"{side}_scale")
            if form.exact:
                self._copy(side, units, at, value)
                continue
            if form.kind == "polar":
                PolarPage(self.layout.head_dim, units, scales, at).write(value, self.threads)
                continue
            tables = self.thresholds, self.centroids, self.scratch
            page = self.layout.page
            writer = BandWriter(side, form, page, self.threads, units, scales, at, value, *tables)
            writer.write()
            if form.sketch_rows:
                SketchWriter(writer, self.sketches, self.seed).write()

    def _copy(self, side: str, units: Buffer, at: tuple[Expr, ...], value: Callable[[Expr, Expr], Expr]) -> None:
        with phase(TOKENS * self.layout.head_dim, self.threads, unroll=False) as item:
            token, d = divide(item, self.layout.head_dim)
            store(units, value(token, d), *at, exact_element(side, token, d, STRIPS))
