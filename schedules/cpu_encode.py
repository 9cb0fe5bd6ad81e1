"""Encoding of whole pages on the CPU: codes of bands and their scales, from vectors in scratch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec.form import Band, Form
from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_bands import band_rows, stored_scale
from tqc.schedules.cpu_codes import UNIT, Table
from tqc.schedules.cpu_polar import PolarEncoder
from tqc.schedules.cpu_simd import Simd, f32, i64, let, scratch
from tqc.schedules.cpu_sketch import SketchEncoder


def groups(form: Form) -> list[list[Band]]:
    """The code bands of each scale."""
    codes = [band for band in form.coded_bands if not band.sketch]
    return [[band for band in codes if band.scale == scale] for scale in sorted({band.scale for band in codes})]


class PageEncoder:
    """Writes pages of one side: codes and scales, or values. Build it where it is used: it may need memory.

    `seed` is that of the cache, which chooses its sketches.
    """

    def __init__(self, simd: Simd, layout: CacheLayout, side: str, state: dict[str, Buffer], seed: int = 0) -> None:
        self.simd, self.layout, self.side, self.state, self.seed = simd, layout, side, state, seed
        self.form = layout.form(side)
        self.codes, self.scales = state[f"{side}_codes"], state.get(f"{side}_scale")

    def write(self, vectors: Buffer, at: tuple[Expr, ...]) -> None:
        """The page `at` from K [dim, token] or V [token, dim]."""
        if self.form.exact:
            self._copy(vectors, at)
            return
        if self.form.kind == "polar":
            PolarEncoder(self.simd, self.layout, self.side, self.state).write(vectors, at)
            return
        for bands in groups(self.form):
            encoders = [BandEncoder(self.simd, self.layout, self.side, band) for band in bands]
            (self._write_keys if self.side == "k" else self._write_values)(vectors, at, encoders)
        for band in self.form.bands:
            if band.sketch:
                SketchEncoder(self.simd, self.layout, self.side, band, self.state, self.seed).write(vectors, at)

    def _scale_at(self, band: Band, lane: Expr) -> Expr:
        return band.scale * self.layout.page + lane

    def _store_scale(self, band: Band, norm: Expr, match: Expr, at: tuple[Expr, ...], lane: Expr) -> None:
        """The norm, over <unit vector, its codebook image> where the form wants it: 0 for a zero vector."""
        simd = self.simd
        norm = let(norm)
        scale = norm if self.form.scalar == "plain" else norm / match
        scale = tirx.Select(norm == simd.splat(0.0), simd.splat(0.0), scale)
        simd.store(self.scales, stored_scale(simd, scale), *at, self._scale_at(band, lane))

    def _copy(self, source: Buffer, at: tuple[Expr, ...]) -> None:
        rows, width = (int(dim) for dim in source.shape)
        with T.serial(i64(rows)) as row, T.serial(i64(width // self.simd.lanes)) as c:
            lane = c * self.simd.lanes
            self.simd.store(self.codes, self.simd.load(source, row, lane), *at, row * width + lane)

    def _write_keys(self, keys: Buffer, at: tuple[Expr, ...], encoders: list[BandEncoder]) -> None:
        """One scale group; lanes are tokens."""
        simd = self.simd
        with T.serial(i64(self.layout.page // simd.lanes)) as c:
            lane = let(c * simd.lanes)
            square = simd.variable(0.0)
            for encoder in encoders:
                with T.serial(i64(encoder.band.rows)) as d:
                    value = let(simd.load(keys, encoder.band.start + d, lane))
                    square.set(square.value + value * value)
            norm = let(tirx.sqrt(square.value))
            inverse = let(simd.splat(1.0) / norm)
            match = simd.variable(0.0)

            def collect(row, product, match=match):
                match.set(match.value + product)

            for encoder in encoders:

                def unit(row, norm=inverse, lane=lane, first=encoder.band.start):
                    return simd.load(keys, first + row, lane) * norm

                with T.serial(i64(encoder.band.rows // UNIT)) as step:
                    encoder.encode(self.codes, at, step, lane, unit, collect)
            self._store_scale(encoders[0].band, norm, let(match.value), at, lane)

    def _write_values(self, vectors: Buffer, at: tuple[Expr, ...], encoders: list[BandEncoder]) -> None:
        """One scale group; lanes are dims."""
        simd, layout = self.simd, self.layout
        norms, inverses, matches = (scratch((layout.page,)) for _ in range(3))
        partial = scratch((layout.page, simd.lanes))
        with T.serial(i64(layout.page)) as t:
            square = simd.variable(0.0)
            for encoder in encoders:
                with T.serial(i64(encoder.band.rows // simd.lanes)) as c:
                    value = let(simd.load(vectors, t, encoder.band.start + c * simd.lanes))
                    square.set(square.value + value * value)
            norm = let(tirx.sqrt(simd.total(let(square.value))))
            T.buffer_store(norms, norm, [t])
            T.buffer_store(inverses, f32(1) / norm, [t])
            simd.store(partial, simd.splat(0.0), t, 0)

        def collect(row, product):
            simd.store(partial, simd.load(partial, row, 0) + product, row, 0)

        for encoder in encoders:
            with T.serial(i64(encoder.band.rows // simd.lanes)) as c:
                lane = let(c * simd.lanes)

                def unit(row, lane=lane, first=encoder.band.start):
                    return simd.load(vectors, row, first + lane) * simd.splat(inverses[row])

                with T.serial(i64(layout.page // UNIT)) as step:
                    encoder.encode(self.codes, at, step, lane, unit, collect)
        with T.serial(i64(layout.page)) as t:
            T.buffer_store(matches, simd.total(let(simd.load(partial, t, 0))), [t])
        with T.serial(i64(layout.page // simd.lanes)) as c:
            lane = let(c * simd.lanes)
            self._store_scale(encoders[0].band, simd.load(norms, lane), simd.load(matches, lane), at, lane)


class BandEncoder:
    """Codes of `UNIT` rows of unit vectors: the number of thresholds below each value, by binary search."""

    def __init__(self, simd: Simd, layout: CacheLayout, side: str, band: Band) -> None:
        book, bits = layout.form(side).table(band), band.bits
        self.band = band
        self._simd = simd
        self._centroids = Table(simd, book.centroids)
        # With the upper k bits of a code known, the next one asks for threshold (2·known + 1)·2**(bits-k-1) - 1.
        self._levels = [
            Table(simd, book.thresholds[np.arange(2**k) * 2 ** (bits - k) + 2 ** (bits - k - 1) - 1])
            for k in range(bits)
        ]
        self._codes = band_rows(simd, layout, side, band)

    def encode(
        self,
        buffer: Buffer,
        at: tuple[Expr, ...],
        step: Expr,
        lane: Expr,
        unit: Callable[[Expr], Expr],
        collect: Callable[[Expr, Expr], None],
    ) -> None:
        """Stores the codes of rows step·UNIT …; `collect(row, product)` gets value · centroid of each row."""
        codes = []
        for i in range(UNIT):
            row = let(step * UNIT + i)
            value = let(unit(row))
            code = self._search(value)
            collect(row, value * self._centroids[code])
            codes.append(code)
        self._codes.store(buffer, *at, step=step, lane=lane, codes=codes)

    def _search(self, value: Expr) -> Expr:
        simd = self._simd
        one, zero = simd.splat(1, "uint32"), simd.splat(0, "uint32")
        code = zero
        for level in self._levels:
            above = tirx.Select(value > level[code], one, zero)
            code = let(code + code + above)
        return code
