"""PolarQuant pages on the CPU: angles and radii of blocks of 16 dims, tokens side by side on both sides."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec.form import BLOCK
from tqc.codec.layout import CacheLayout
from tqc.codec.polar import LEVEL_BITS, angles, level_rows
from tqc.schedules.cpu_bands import stored_scale
from tqc.schedules.cpu_codes import UNIT, Table
from tqc.schedules.cpu_simd import Simd, i64, let, scratch

LEVELS = len(LEVEL_BITS)


class PolarPage:
    """What reading and writing pages of one side share: where the angles are."""

    def __init__(self, simd: Simd, layout: CacheLayout, side: str, state: dict[str, Buffer]) -> None:
        self.simd, self.layout, self.side = simd, layout, side
        self.codes, self.scales = state[f"{side}_codes"], state[f"{side}_scale"]
        self.blocks = layout.head_dim // BLOCK

    def _units(self, level: int, block: Expr, number: int) -> tuple[int, Expr]:
        """Tokens of a unit, and the first unit of angle `number` of a level in a block."""
        dim, page = self.layout.head_dim, self.layout.page
        per_unit = UNIT // LEVEL_BITS[level - 1]
        row = level_rows(dim, level).start + block * (BLOCK >> level) + number
        if level == 1:
            return per_unit, let(row * (page // per_unit))
        first = level_rows(dim, 1).stop
        return per_unit, let(first * page * LEVEL_BITS[0] // UNIT + (row - first) * (page // per_unit))


class PolarDecoder(PolarPage):
    """Reads pages. Build it outside of loops: it has tables."""

    def __init__(self, simd: Simd, layout: CacheLayout, side: str, state: dict[str, Buffer]) -> None:
        super().__init__(simd, layout, side, state)
        self._tables = [
            tuple(Table(simd, turn(angles(level)[0])) for turn in (np.cos, np.sin)) for level in range(1, LEVELS + 1)
        ]
        self._turned = scratch((BLOCK * simd.lanes,)) if side == "v" else None

    def decode(self, at: tuple[Expr, ...], target: Buffer) -> None:
        """The page `at` into K [dim, token] or V [token, dim], float32. Radii of V that are not finite count as 0."""
        simd, turned = self.simd, self._turned
        with T.serial(i64(self.layout.page // simd.lanes)) as c, T.serial(i64(self.blocks)) as block:
            lane = let(c * simd.lanes)
            for i, value in enumerate(self._block(at, block, lane)):
                if turned is None:
                    simd.store(target, value, block * BLOCK + i, lane)
                else:
                    simd.store(turned, value, i * simd.lanes)
            if turned is not None:
                self._transpose(turned, target, block, lane)

    def _block(self, at: tuple[Expr, ...], block: Expr, lane: Expr) -> list[Expr]:
        """The 16 dims of a block, vectors of tokens."""
        simd = self.simd
        radius = let(simd.load(self.scales, *at, block * self.layout.page + lane))
        if self.side == "v":
            radius = let(tirx.Select(simd.finite(radius), radius, simd.splat(0.0)))
        values = [radius]
        for level in range(LEVELS, 0, -1):
            cosine, sine = self._tables[level - 1]
            parts = []
            for i, value in enumerate(values):
                code = self._angle(at, level, block, i, lane)
                parts += [let(value * cosine[code]), let(value * sine[code])]
            values = parts
        return values

    def _angle(self, at: tuple[Expr, ...], level: int, block: Expr, number: int, lane: Expr) -> Expr:
        """The codes of one angle of the tokens from `lane` on, other bits above them."""
        simd, lanes, bits = self.simd, self.simd.lanes, LEVEL_BITS[level - 1]
        per_unit, first = self._units(level, block, number)
        count = lanes // per_unit
        start = let(first + tirx.floordiv(lane, i64(per_unit)))
        if count > 1:
            units = self.codes[(*at, tirx.Ramp(start, i64(1), count))]
            words = tirx.Shuffle([let(units)] * per_unit, [i // per_unit for i in range(lanes)])
        else:
            words = tirx.Broadcast(self.codes[(*at, start)], lanes)
        words = let(tirx.Cast(simd.type("uint32"), words))
        if not count:  # a unit has more tokens than a vector
            within = tirx.Cast("uint32", tirx.floormod(lane, i64(per_unit)) * bits)
            words = let(words >> simd.splat(within))
        shifts = [tirx.const(i % per_unit * bits, "uint32") for i in range(lanes)]
        return let(words >> tirx.Shuffle(shifts, list(range(lanes))))

    def _transpose(self, turned: Buffer, target: Buffer, block: Expr, token: Expr) -> None:
        simd, lanes = self.simd, self.simd.lanes
        with T.serial(i64(lanes)) as t:
            for first in range(0, BLOCK, lanes):
                value = turned[tirx.Ramp(first * lanes + t, i64(lanes), lanes)]
                simd.store(target, value, token + t, block * BLOCK + first)


class PolarEncoder(PolarPage):
    """Writes pages."""

    def write(self, vectors: Buffer, at: tuple[Expr, ...]) -> None:
        """The page `at` from K [dim, token] or V [token, dim]."""
        simd, page, dim = self.simd, self.layout.page, self.layout.head_dim
        if self.side == "v":
            turned = scratch((dim, page))
            with T.serial(i64(page)) as t, T.serial(i64(dim)) as d:
                T.buffer_store(turned, vectors[t, d], [d, t])
            vectors = turned
        codes = scratch((BLOCK - 1, page), "uint32")
        with T.serial(i64(self.blocks)) as block:
            with T.serial(i64(page // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                radius = self._encode(vectors, block, lane, codes)
                simd.store(self.scales, stored_scale(simd, radius), *at, block * page + lane)
            row = 0
            for level in range(1, LEVELS + 1):
                for i in range(BLOCK >> level):
                    self._pack(codes, row, level, at, block, i)
                    row += 1

    def _encode(self, vectors: Buffer, block: Expr, lane: Expr, codes: Buffer) -> Expr:
        """Codes of one block's angles, level after level; gives the radius of the block."""
        simd = self.simd
        radii = [let(simd.load(vectors, block * BLOCK + i, lane)) for i in range(BLOCK)]
        row = 0
        for level in range(1, LEVELS + 1):
            pairs = list(zip(radii[::2], radii[1::2], strict=True))
            for a, b in pairs:
                code = self._circle_code(a, b) if level == 1 else self._count(level, a, b)
                T.buffer_store(codes, code, [i64(row), tirx.Ramp(lane, i64(1), simd.lanes)])
                row += 1
            radii = [let(tirx.sqrt(a * a + b * b)) for a, b in pairs]
        return radii[0]

    def _circle_code(self, a: Expr, b: Expr) -> Expr:
        """16 equal cells from angle 0 on: turned into the first quadrant, then counted."""
        simd, zero = self.simd, self.simd.splat(0.0)
        lower = let(tirx.Select(b < zero, simd.splat(8, "uint32"), simd.splat(0, "uint32")))
        a, b = let(tirx.Select(b < zero, zero - a, a)), let(tirx.Select(b < zero, zero - b, b))
        left = let(tirx.Select(a < zero, simd.splat(4, "uint32"), simd.splat(0, "uint32")))
        a, b = let(tirx.Select(a < zero, b, a)), let(tirx.Select(a < zero, zero - a, b))
        return let(lower + left + self._count(1, a, b))

    def _count(self, level: int, a: Expr, b: Expr) -> Expr:
        """Thresholds of the quarter circle that lie below the angle of (a, b), both at least 0."""
        simd = self.simd
        slopes = np.tan(angles(level)[1][:3].astype(np.float64))
        above = [
            tirx.Select(b > a * simd.splat(slope), simd.splat(1, "uint32"), simd.splat(0, "uint32")) for slope in slopes
        ]
        return let(above[0] + above[1] + above[2])

    def _pack(self, codes: Buffer, row: int, level: int, at: tuple[Expr, ...], block: Expr, number: int) -> None:
        bits = LEVEL_BITS[level - 1]
        per_unit, first = self._units(level, block, number)
        with T.serial(i64(self.layout.page // per_unit)) as u:
            unit = tirx.const(0, "uint32")
            for i in range(per_unit):
                unit = unit | (codes[i64(row), u * per_unit + i] << tirx.const(i * bits, "uint32"))
            T.buffer_store(self.codes, tirx.Cast("uint16", unit), [*at, first + u])
