"""Flash attention of one warp on tensor cores: a few query rows over tiles of 64 keys and values, online softmax.

Keys and values are operand A of `mma.m16n8k16`, query rows its columns (`tqc.codec.fragments`): scores come out as
[token, row], eight rows an instruction, and outputs as [dim, row]. The probabilities are transposed in registers
between the two products. So a decode step with a GQA group of up to eight query heads fills the instruction, and every
code is decoded once for all rows. Softmax is that of Milakov & Gimelshein (2018) in base 2 and float32.

A lane (g = lane // 4, t = lane % 4) holds of each strip of 16 tokens the scores of tokens g and g + 8 and of rows 2t
and 2t + 1 of every eight: register n of the four is token g + 8·(n // 2), row 2t + n % 2. The scale of a key is a
factor of its scores, that of a value a factor of its probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.fragments import STRIP, STRIPS
from tqc.schedules.cuda_builder import f32, i32, store
from tqc.schedules.cuda_ptx import exp2, from_lane, half_of, hold, load_shared, mma, pack_halves, registers, transpose

ROWS = 8
"""Query rows of one instruction."""
HIDDEN = -1e30
"""Less than any score; the top of rows that have seen no token."""
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Column:
    """16 rows of the coded vector, from row 16·index on. `load(operands)` puts its strips into 4 registers each."""

    index: int
    load: Callable[[Buffer], None]


@dataclass(frozen=True)
class Part:
    """Columns that are multiplied by scale number `scale`; None: by none. `products(sums)`, of keys: puts what the
    columns would give with all rows into the registers of the scores."""

    scale: int | None
    columns: tuple[Column, ...]
    products: Callable[[Buffer], None] | None = None


@dataclass(frozen=True)
class Side:
    """The keys or values of a tile. `scales(number, g)`: four words, each with the scales of two tokens of a strip, g
    and g + 8; by default the lane's own. `strips`: those that exist."""

    parts: tuple[Part, ...]
    scales: Callable[..., Buffer] | None = None
    strips: int = STRIPS


@dataclass(frozen=True)
class Tile:
    """Tokens at positions `base` … of the sequence. masked: some may be invisible to some rows."""

    keys: Side
    values: Side
    base: Expr
    masked: bool = True


@dataclass(frozen=True)
class Scores:
    """How a product of q and k becomes a score. window: 0 for none; softcap: 0 for none (`c·tanh(s/c)`)."""

    softmax_scale: float
    softcap: float = 0.0
    window: int = 0

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, so that a product is a score in base 2 or the argument of tanh."""
        return self.softmax_scale / self.softcap if self.softcap else self.softmax_scale * LOG2_E


Visible = Callable[[Expr, int, int], Expr]
"""Whether the token at a position is seen by row 2t + n of the rows number m: (position, m, n)."""


class WarpAttention:
    """Registers of one warp's rows: `tiles` times eight of them, and `v_columns` columns of values.

    `queries(column, m)`: the two registers of operand B of a column of the rows number m.
    """

    def __init__(
        self, scores: Scores, tiles: int, v_columns: int, lane: Expr, queries: Callable[[int, int], Buffer]
    ) -> None:
        self.options, self.tiles, self.v_columns, self.queries = scores, tiles, v_columns, queries
        self.g, self.t = hold(lane >> 2), hold(lane & 3)
        self.operands = registers("operand_a", 4 * STRIPS, "uint32")
        self.sums = registers("part_scores", 4 * STRIPS * tiles)
        self.scores = registers("scores", 4 * STRIPS * tiles)
        self.weights = registers("weights", 2 * STRIPS * tiles, "uint32")
        self.mixed = registers("mixed", 4 * v_columns * tiles)
        self.top, self.total = registers("top", 2 * tiles), registers("total", 2 * tiles)
        self._high, self._factor = registers("highest", 1), registers("factor", 2 * tiles)
        self._other, self._pair = registers("other", 1), registers("pair", 1, "uint32")

    @property
    def counts_sinks(self) -> Expr:
        """True in one of the lanes whose totals add up to that of a row."""
        return tirx.EQ(self.g, i32(0))

    def row(self, m: int, n: int) -> Expr:
        """Of the warp's rows the one that `top`, `total` number 2m + n are of."""
        return m * ROWS + self.t * 2 + n

    def begin(self) -> None:
        """No token seen."""
        for n in range(4 * self.v_columns * self.tiles):
            store(self.mixed, f32(0.0), n)
        for n in range(2 * self.tiles):
            store(self.top, f32(HIDDEN), n)
            store(self.total, f32(0.0), n)

    def add(self, tile: Tile, visible: Visible) -> None:
        """Adds a tile to what the rows have seen."""
        self.look(tile, visible)
        self.mix(tile)

    def look(self, tile: Tile, visible: Visible) -> None:
        """The half of `add` that reads keys: the weights of the tile's tokens."""
        self._multiply(tile)
        self._mask(tile, visible)
        self._raise_top(tile)
        self._weigh(tile)

    def mix(self, tile: Tile) -> None:
        """The half of `add` that reads values."""
        for part in tile.values.parts:
            self._mix(tile, part)

    def score(self, m: int, strip: int, n: int) -> int:
        """Index of a score: rows number m, register n of a strip."""
        return (m * STRIPS + strip) * 4 + n

    def _each(self, strips: int) -> Iterable[tuple[int, int, int]]:
        return ((m, strip, n) for m in range(self.tiles) for strip in range(strips) for n in range(4))

    def _multiply(self, tile: Tile) -> None:
        keys = tile.keys
        for number, part in enumerate(keys.parts):
            sums = self.scores if number == 0 else self.sums
            (part.products or self._products(part, keys.strips))(sums)
            scales = None if part.scale is None else keys.scales(part.scale)
            for m, strip, n in self._each(keys.strips):
                at = self.score(m, strip, n)
                product = sums[at] if scales is None else sums[at] * half_of(scales[strip], n >= 2)
                store(self.scores, product if number == 0 else self.scores[at] + product, at)

    def _products(self, part: Part, strips: int) -> Callable[[Buffer], None]:
        """The products of the columns as float16."""

        def multiply(sums: Buffer) -> None:
            for at in self._each(strips):
                store(sums, f32(0.0), self.score(*at))
            for column in part.columns:
                column.load(self.operands)
                for m in range(self.tiles):
                    b = self.queries(column.index, m)
                    for strip in range(strips):
                        first = self.score(m, strip, 0)
                        mma([sums[first + n] for n in range(4)], self._operand(strip), [b[0], b[1]])

        return multiply

    def _operand(self, strip: int) -> list[Expr]:
        return [self.operands[4 * strip + n] for n in range(4)]

    def _mask(self, tile: Tile, visible: Visible) -> None:
        cap = self.options.softcap
        for m, strip, n in self._each(tile.keys.strips):
            at = self.score(m, strip, n)
            if cap:  # tanh(x) = 1 − 2 / (e^2x + 1), to float32's accuracy of the capped score
                exp2(self._other[0], self.scores[at] * f32(2 * LOG2_E))
                capped = f32(1.0) - f32(2.0) / (self._other[0] + f32(1.0))
                store(self.scores, capped * f32(cap * LOG2_E), at)
            if tile.masked:
                position = tile.base + (STRIP * strip + 8 * (n // 2)) + self.g
                store(self.scores, tirx.Select(visible(position, m, n % 2), self.scores[at], f32(-math.inf)), at)

    def _raise_top(self, tile: Tile) -> None:
        """The new highest score of every row; what was mixed before is scaled down to it."""
        for m in range(self.tiles):
            for n in range(2):
                store(self._high, self.top[2 * m + n], 0)
                for strip in range(tile.keys.strips):
                    for half in (0, 2):
                        store(self._high, tirx.max(self._high[0], self.scores[self.score(m, strip, half + n)]), 0)
                for mask in (4, 8, 16):
                    from_lane(self._other[0], self._high[0], mask)
                    store(self._high, tirx.max(self._high[0], self._other[0]), 0)
                exp2(self._factor[2 * m + n], self.top[2 * m + n] - self._high[0])
                store(self.top, self._high[0], 2 * m + n)
                store(self.total, self.total[2 * m + n] * self._factor[2 * m + n], 2 * m + n)
        for m in range(self.tiles):
            for column in range(self.v_columns):
                for n in range(4):
                    at = self._mixed(column, m) + n
                    store(self.mixed, self.mixed[at] * self._factor[2 * m + n % 2], at)

    def _weigh(self, tile: Tile) -> None:
        """Probabilities in the place of scores, up to their sum; a lane sums its own tokens."""
        for m, strip, n in self._each(tile.keys.strips):
            at, row = self.score(m, strip, n), 2 * m + n % 2
            exp2(self.scores[at], self.scores[at] - self.top[row])
            store(self.total, self.total[row] + self.scores[at], row)

    def _mix(self, tile: Tile, part: Part) -> None:
        values = tile.values
        scales = None if part.scale is None else values.scales(part.scale)
        for m in range(self.tiles):
            for strip in range(values.strips):
                for half in range(2):
                    pair = [self.scores[self.score(m, strip, 2 * half + n)] for n in range(2)]
                    if scales is not None:
                        scale = hold(half_of(scales[strip], bool(half)))
                        pair = [self._scaled(x, scale, tile) for x in pair]
                    pack_halves(self._pair[0], *pair)
                    transpose(self.weights[(m * STRIPS + strip) * 2 + half], self._pair[0])
        for column in part.columns:
            column.load(self.operands)
            for m in range(self.tiles):
                first = self._mixed(column.index, m)
                sums = [self.mixed[first + n] for n in range(4)]
                for strip in range(values.strips):
                    b = [self.weights[(m * STRIPS + strip) * 2 + n] for n in range(2)]
                    mma(sums, self._operand(strip), b)

    @staticmethod
    def _scaled(weight: Expr, scale: Expr, tile: Tile) -> Expr:
        """Weight times scale: 0 for a hidden token, whose scale may be anything."""
        return tirx.Select(tirx.EQ(weight, f32(0.0)), f32(0.0), weight * scale) if tile.masked else weight * scale

    def _mixed(self, column: int, m: int) -> int:
        return (column * self.tiles + m) * 4

    def finish(self) -> None:
        """Sums the totals over the lanes of a row: `total` and `top` are then the same in all of them."""
        for row in range(2 * self.tiles):
            for mask in (4, 8, 16):
                from_lane(self._other[0], self.total[row], mask)
                store(self.total, self.total[row] + self._other[0], row)

    def outputs(self, m: int, n: int) -> Iterable[tuple[Expr, Expr]]:
        """(dim, number) of the lane's outputs of `row(m, n)`, not yet divided by the total."""
        for column in range(self.v_columns):
            for half in range(2):
                yield STRIP * column + self.g + 8 * half, self.output(column, m, 2 * half + n)

    def output(self, column: int, m: int, n: int) -> Expr:
        """Row 2t + n % 2 of the rows number m, dim 16·column + g + 8·(n // 2), not yet divided by the total."""
        return self.mixed[self._mixed(column, m) + n]


def load_words(address: Expr, count: int, name: str = "words") -> Buffer:
    """`count` words (1, 2 or 4) from shared memory."""
    words = registers(name, count, "uint32")
    load_shared([words[n] for n in range(count)], address)
    return words
