"""Flash attention of a warpgroup on the tensor cores of sm_90a: 64 query rows over tiles of 64 keys and values.

Four warps run an instruction together. Queries are its rows: scores come out as [row, token]. Queries, keys and values
lie in shared memory as core matrices (`cuda_cores`), from where the instruction reads them itself; probabilities come
from registers, in the order in which the first product left them.

A lane (g = lane // 4, t = lane % 4) of warp w has rows 16w + g and 16w + g + 8, and of each eight tokens or dims the
numbers 2t and 2t + 1: register n of the four is row g + 8·(n // 2), token 2t + n % 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from tvm import tirx
from tvm.ir import Expr

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import TOKENS
from tqc.schedules.cuda_builder import f32, store
from tqc.schedules.cuda_cores import CORE_BYTES, EDGE, descriptor
from tqc.schedules.cuda_flash import HIDDEN, LOG2_E, Scores, Visible
from tqc.schedules.cuda_ptx import (
    exp2,
    fence_group,
    from_lane,
    group_mma,
    hold,
    pack_halves,
    pin,
    registers,
    wait_group,
)

WARPS = 4
"""Of a warpgroup."""
GROUP_ROWS = 64


class GroupAttention:
    """Registers of one warpgroup's 64 rows. `v_dims`: numbers of a coded value.

    Addresses: `queries` of the rows' first core matrix, of `[numbers of a key / 8, row_cores]`; `keys`, `values` of
    those of a tile.
    """

    def __init__(
        self,
        scores: Scores,
        v_dims: int,
        warp: Expr,
        lane: Expr,
        queries: Expr,
        row_cores: int,
        keys: Expr,
        values: Expr,
    ) -> None:
        self.options, self.v_dims = scores, v_dims
        self.g, self.t, self._warp = hold(lane >> 2), hold(lane & 3), warp
        self.scores = registers("scores", TOKENS // 2)
        self.weights = registers("weights", TOKENS // 4, "uint32")
        self.mixed = registers("mixed", v_dims // 2)
        self.top, self.total, self._factor = (registers(name, 2) for name in ("top", "total", "factor"))
        self._other = registers("other", 1)
        self._queries = descriptor(queries, row_cores * CORE_BYTES, CORE_BYTES)
        self._keys = descriptor(keys, TOKENS // EDGE * CORE_BYTES, CORE_BYTES)
        self._values = descriptor(values, v_dims // EDGE * CORE_BYTES, CORE_BYTES)
        self._query_step = 2 * row_cores * CORE_BYTES

    tiles = 1
    """Rows number m are those of the lane in the m-th instruction of a warp."""

    @property
    def counts_sinks(self) -> Expr:
        """True in one of the lanes whose totals add up to that of a row."""
        return tirx.EQ(self.t, tirx.const(0, "int32"))

    def row(self, m: int, n: int) -> Expr:
        """Of the warpgroup's 64 rows the one that `top`, `total` number n are of."""
        return (self._warp & (WARPS - 1)) * 16 + self.g + 8 * n

    def begin(self) -> None:
        """No token seen."""
        for n in range(self.v_dims // 2):
            store(self.mixed, f32(0.0), n)
        for n in range(2):
            store(self.top, f32(HIDDEN), n)
            store(self.total, f32(0.0), n)

    def look(self, columns: int, strips: int, base: Expr, visible: Visible, masked: bool) -> None:
        """Reads `columns` columns of the keys of a tile of `strips` strips, tokens `base` …: weights of its tokens."""
        count = 4 * 2 * strips
        sums = [self.scores[n] for n in range(count)]
        fence_group()
        for step in range(columns):
            queries = _moved(self._queries, step * self._query_step)
            keys = _moved(self._keys, step * 2 * (TOKENS // EDGE) * CORE_BYTES)
            group_mma(sums, queries, keys, add=step > 0)
        wait_group()
        pin(sums)
        self._mask(count, base, visible, masked)
        self._raise_top(count)
        for n in range(count):
            row = n % 4 // 2
            exp2(self.scores[n], self.scores[n] - self.top[row])
            store(self.total, self.total[row] + self.scores[n], row)
        for n in range(0, count, 2):
            pack_halves(self.weights[n // 2], self.scores[n], self.scores[n + 1])

    def mix(self, columns: int, strips: int, *, transposed: bool) -> None:
        """Reads `columns` columns of the values. `transposed`: dims, not tokens, lie along the 16 bytes."""
        sums = [self.mixed[n] for n in range(columns * COLUMN // 2)]
        weights = [self.weights[n] for n in range(4 * strips)]
        pin(sums)
        pin(weights)
        fence_group()
        for strip in range(strips):
            values = _moved(self._values, strip * 2 * (self.v_dims // EDGE) * CORE_BYTES)
            group_mma(sums, weights[4 * strip : 4 * strip + 4], values, add=True, transposed=transposed)
        wait_group()
        pin(sums)

    def _mask(self, count: int, base: Expr, visible: Visible, masked: bool) -> None:
        cap = self.options.softcap
        for n in range(count):
            if cap:
                exp2(self._other[0], self.scores[n] * f32(2 * LOG2_E))
                capped = f32(1.0) - f32(2.0) / (self._other[0] + f32(1.0))
                store(self.scores, capped * f32(cap * LOG2_E), n)
            if masked:
                position = base + (n // 4 * EDGE + n % 2) + self.t * 2
                store(self.scores, tirx.Select(visible(position, 0, n % 4 // 2), self.scores[n], f32(-math.inf)), n)

    def _raise_top(self, count: int) -> None:
        """The new highest score of every row; what was mixed before is scaled down to it."""
        high = registers("highest", 1)
        for row in range(2):
            store(high, self.top[row], 0)
            for n in range(count):
                if n % 4 // 2 == row:
                    store(high, tirx.max(high[0], self.scores[n]), 0)
            self._over_row(high, tirx.max)
            exp2(self._factor[row], self.top[row] - high[0])
            store(self.top, high[0], row)
            store(self.total, self.total[row] * self._factor[row], row)
        for n in range(self.v_dims // 2):
            store(self.mixed, self.mixed[n] * self._factor[n % 4 // 2], n)

    def _over_row(self, x, add, at: int = 0) -> None:
        """Of the four lanes of a row, to all of them."""
        for mask in (1, 2):
            from_lane(self._other[0], x[at], mask)
            store(x, add(x[at], self._other[0]), at)

    def finish(self) -> None:
        """Sums the totals over the lanes of a row."""
        for row in range(2):
            self._over_row(self.total, lambda a, b: a + b, row)

    def outputs(self, m: int, n: int) -> Iterable[tuple[Expr, Expr]]:
        """(dim, number) of the lane's outputs of `row(m, n)`, not yet divided by the total."""
        for eight in range(self.v_dims // EDGE):
            for odd in range(2):
                yield eight * EDGE + self.t * 2 + odd, self.mixed[4 * eight + 2 * n + odd]


def _moved(of: Expr, offset: int) -> Expr:
    """A descriptor `offset` bytes further on. Shared memory ends below 2¹⁸, so no other field is touched."""
    return of + tirx.const(offset // 16, "uint64") if offset else of
