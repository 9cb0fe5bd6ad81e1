"""Sign sketches of a page on the CPU: what its codes leave of the vectors, projected, as signs and norms.

Tokens stand side by side in vector registers on both sides, so that a Hadamard transform is additions of whole vectors.
"""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec import rotation, sketch
from tqc.codec.form import Band
from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_bands import CodedBand, band_rows, stored_scale
from tqc.schedules.cpu_codes import UNIT
from tqc.schedules.cpu_simd import Simd, i64, let, scratch

TOKENS = 16
"""Tokens that are sketched together."""

_WORD = 32


class SketchEncoder:
    """Writes one sketch band of a page whose codes and scales are already there."""

    def __init__(
        self, simd: Simd, layout: CacheLayout, side: str, band: Band, state: dict[str, Buffer], seed: int
    ) -> None:
        form = layout.form(side)
        self.simd, self.layout, self.side, self.band = simd, layout, side, band
        self.codes, self.scales = state[f"{side}_codes"], state[f"{side}_scale"]
        self.first, self.dim = band.source
        inside = [b for b in form.bands if not b.sketch and b.start < self.first + self.dim and b.stop > self.first]
        self.coded = [CodedBand(simd, layout, side, b, self.codes) for b in inside if b.bits]
        self.raw = [(max(b.start, self.first), min(b.stop, self.first + self.dim)) for b in inside if not b.bits]
        self.signs = band_rows(simd, layout, side, band)
        self.seeds = sketch.chunk_seeds(form, band, seed)

    def write(self, vectors: Buffer, at: tuple[Expr, ...]) -> None:
        """The page `at` from K [dim, token] or V [token, dim]."""
        simd, dim = self.simd, self.dim
        work, turned = scratch((dim * TOKENS,)), scratch((dim * TOKENS,))
        projections = [Projection(simd, dim, seed) for seed in self.seeds]
        with T.serial(i64(self.layout.page // TOKENS)) as number:
            token = let(number * TOKENS)
            (self._left_of_keys if self.side == "k" else self._left_of_values)(vectors, at, token, work)
            self._store_norms(work, at, token)
            for chunk, projection in enumerate(projections):
                with T.serial(i64(dim * TOKENS // simd.lanes)) as i:
                    simd.store(turned, simd.load(work, i * simd.lanes), i * simd.lanes)
                projection.apply(turned)
                self._store_signs(turned, at, token, chunk * dim)

    def _left_of_keys(self, keys: Buffer, at: tuple[Expr, ...], token: Expr, work: Buffer) -> None:
        simd, page = self.simd, self.layout.page
        for c in range(TOKENS // simd.lanes):
            lane, right = let(token + c * simd.lanes), c * simd.lanes
            for coded in self.coded:
                scale = let(simd.load(self.scales, *at, coded.band.scale * page + lane))
                rows_of = coded.values(at, [lane])
                with T.serial(i64(coded.steps)) as step:
                    for row, (value,) in rows_of(step):
                        dim = let(coded.band.start + row)
                        left = simd.load(keys, dim, lane) - value * scale
                        simd.store(work, left, (dim - self.first) * TOKENS + right)
            for first, end in self.raw:
                with T.serial(i64(first), i64(end)) as dim:
                    simd.store(work, simd.load(keys, dim, lane), (dim - self.first) * TOKENS + right)

    def _left_of_values(self, vectors: Buffer, at: tuple[Expr, ...], token: Expr, work: Buffer) -> None:
        simd, page = self.simd, self.layout.page

        def transpose(left: Expr, dim: Expr, t: Expr) -> None:
            index = tirx.Ramp((dim - self.first) * TOKENS + t, i64(TOKENS), simd.lanes)
            T.buffer_store(work, left, [index])

        scales = scratch((TOKENS,))
        for coded in self.coded:
            for c in range(TOKENS // simd.lanes):
                scale = simd.load(self.scales, *at, coded.band.scale * page + token + c * simd.lanes)
                simd.store(scales, scale, c * simd.lanes)
            with T.serial(i64(coded.band.rows // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                dim = let(coded.band.start + lane)
                rows_of = coded.values(at, [lane])
                each = page // coded.steps
                first = let(tirx.floordiv(token, i64(each)))
                with T.serial(first, first + TOKENS // each) as step:
                    for row, (value,) in rows_of(step):
                        t = let(row - token)
                        transpose(simd.load(vectors, row, dim) - value * simd.splat(scales[t]), dim, t)
        for first, end in self.raw:
            with T.serial(i64((end - first) // simd.lanes)) as c, T.serial(i64(TOKENS)) as t:
                dim = let(first + c * simd.lanes)
                transpose(simd.load(vectors, token + t, dim), dim, t)

    def _store_norms(self, work: Buffer, at: tuple[Expr, ...], token: Expr) -> None:
        simd = self.simd
        for c in range(TOKENS // simd.lanes):
            square = simd.variable(0.0)
            with T.serial(i64(self.dim)) as dim:
                value = let(simd.load(work, dim * TOKENS + c * simd.lanes))
                square.set(square.value + value * value)
            norm = stored_scale(simd, tirx.sqrt(square.value))
            simd.store(self.scales, norm, *at, self.band.scale * self.layout.page + token + c * simd.lanes)

    def _store_signs(self, turned: Buffer, at: tuple[Expr, ...], token: Expr, first: int) -> None:
        """The signs of rows first … of the band, turned [row, token]."""
        simd, lanes = self.simd, self.simd.lanes
        one, zero = simd.splat(1, "uint32"), simd.splat(0, "uint32")

        def codes(index) -> list[Expr]:
            return [let(tirx.Select(turned[index(i)] > simd.splat(0.0), one, zero)) for i in range(UNIT)]

        if self.side == "k":
            with T.serial(i64(self.dim // UNIT)) as step:
                for c in range(TOKENS // lanes):
                    left = let(step * (UNIT * TOKENS) + c * lanes)
                    fields = codes(lambda i, left=left: tirx.Ramp(left + i * TOKENS, i64(1), lanes))
                    self.signs.store(self.codes, *at, step=first // UNIT + step, lane=token + c * lanes, codes=fields)
            return
        with T.serial(i64(self.dim // lanes)) as c:
            row = let(c * lanes)
            fields = codes(lambda i: tirx.Ramp(row * TOKENS + i, i64(TOKENS), lanes))
            step = let(tirx.floordiv(token, i64(UNIT)))
            self.signs.store(self.codes, *at, step=step, lane=first + row, codes=fields)


class Projection:
    """A chunk of S, without the factor that makes it orthonormal: signs do not see it."""

    def __init__(self, simd: Simd, dim: int, seed: int) -> None:
        self.simd, self.dim = simd, dim
        self.rounds = []
        for signs, factor in rotation.factors(dim, seed, sketch.ROUNDS):
            words = scratch((-(-dim // _WORD),), "uint32")
            bits = np.resize((signs < 0).astype(np.uint64), (-(-dim // _WORD), _WORD))
            for i, word in enumerate((bits << np.arange(_WORD, dtype=np.uint64)).sum(axis=1)):
                T.buffer_store(words, tirx.const(int(word), "uint32"), [i64(i)])
            self.rounds.append((words, self._factor(factor)))

    def _factor(self, factor: np.ndarray) -> Buffer | None:
        if factor.shape == (1, 1):
            return None
        made = scratch(factor.shape)
        for (i, j), value in np.ndenumerate(factor):
            T.buffer_store(made, tirx.const(float(value), "float32"), [i64(i), i64(j)])
        return made

    def apply(self, x: Buffer) -> None:
        """x [dim, TOKENS] in place."""
        odd = self.dim // (self.dim & -self.dim)
        for words, factor in self.rounds:
            self._negate(x, words)
            if factor is not None:
                self._mix(x, factor, odd)
            width = odd
            while width < self.dim:
                self._add_pairs(x, width)
                width *= 2

    def _vectors(self) -> range:
        return range(0, TOKENS, self.simd.lanes)

    def _negate(self, x: Buffer, words: Buffer) -> None:
        simd = self.simd
        with T.serial(i64(self.dim)) as dim:
            shift = tirx.Cast("uint32", tirx.floormod(dim, i64(_WORD)))
            sign = let((words[tirx.floordiv(dim, i64(_WORD))] >> shift) << tirx.const(_WORD - 1, "uint32"))
            for right in self._vectors():
                value = simd.bits(simd.load(x, dim * TOKENS + right)) ^ simd.splat(sign)
                simd.store(x, simd.bits(value, "float32"), dim * TOKENS + right)

    def _mix(self, x: Buffer, factor: Buffer, odd: int) -> None:
        """factor · x in every run of `odd` dims."""
        simd = self.simd
        mixed = scratch((odd * TOKENS,))
        with T.serial(i64(self.dim // odd)) as run:
            first = let(run * (odd * TOKENS))
            with T.serial(i64(odd)) as i:
                for right in self._vectors():
                    total = simd.variable(0.0)
                    with T.serial(i64(odd)) as j:
                        value = simd.load(x, first + j * TOKENS + right)
                        total.set(total.value + value * simd.splat(factor[i, j]))
                    simd.store(mixed, total.value, i * TOKENS + right)
            with T.serial(i64(odd * TOKENS // simd.lanes)) as c:
                simd.store(x, simd.load(mixed, c * simd.lanes), first + c * simd.lanes)

    def _add_pairs(self, x: Buffer, width: int) -> None:
        """Sums and differences of dims that are `width` apart, blocks of 2·width."""
        simd = self.simd
        with T.serial(i64(self.dim // (2 * width))) as block, T.serial(i64(width)) as i:
            first = let((block * (2 * width) + i) * TOKENS)
            for right in self._vectors():
                a = let(simd.load(x, first + right))
                b = let(simd.load(x, first + (width * TOKENS + right)))
                simd.store(x, a + b, first + right)
                simd.store(x, a - b, first + (width * TOKENS + right))
