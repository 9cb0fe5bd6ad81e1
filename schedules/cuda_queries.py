"""Query rows into shared memory as operand B of the tensor cores, `[column, eight rows, lane, 2]`, rotated or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import ROWS as COLUMN
from tqc.schedules.cuda_builder import f32, i32, store, when
from tqc.schedules.cuda_flash import ROWS, load_words
from tqc.schedules.cuda_ptx import WARP, hold, pack_halves, registers, store_shared, u32
from tqc.schedules.cuda_rotate import Turn, WarpRotation, can_rotate

OPERAND_BYTES = 8 * WARP
"""Of eight rows and a column."""


def query_bytes(rows: int, eights: int) -> int:
    """Shared memory of `eights` times eight query rows of `rows` numbers."""
    return rows // COLUMN * eights * OPERAND_BYTES


def can_turn(head_dim: int) -> bool:
    """Whether queries of this head_dim can be rotated on the way: a lane then has whole pairs."""
    return can_rotate(head_dim) and head_dim >= 2 * WARP


@dataclass(frozen=True)
class Queries:
    """`eights` times eight rows of `rows` numbers at `address`. `value(row, dim)`: a number times the softmax's factor,
    float32, for every row; rows that are none have zeros."""

    address: Expr
    rows: int
    eights: int
    value: Callable[[Expr, Expr], Expr]

    def write(self, thread: Expr, threads: int) -> None:
        """Writes all rows; a barrier has to follow."""
        items = self.rows // COLUMN * self.eights * WARP
        words = registers("query_words", 2, "uint32")
        with T.serial(0, -(-items // threads)) as turn:
            item = hold(turn * threads + thread)
            with when(item < items):
                lane, eight = hold(item & 31), hold(tirx.floormod(item >> 5, i32(self.eights)))
                row = hold(eight * ROWS + (lane >> 2))
                dim = hold(tirx.floordiv(item >> 5, i32(self.eights)) * COLUMN + (lane & 3) * 2)
                for n in range(2):
                    pack_halves(words[n], *(self.value(row, dim + (8 * n + odd)) for odd in range(2)))
                store_shared(self.address + u32(item) * u32(8), words[0], words[1])

    def write_turned(self, turn: Turn, lane: Expr, warp: Expr, warps: int) -> None:
        """`write` of the rotated rows, each by one warp."""
        rotation = WarpRotation(self.rows, lane, turn.seed, turn.rounds)
        values, word = registers("query_values", rotation.size), registers("query_word", 1, "uint32")
        with T.serial(0, -(-self.eights * ROWS // warps)) as i:
            row = hold(i * warps + warp)
            with when(row < self.eights * ROWS):
                for e in range(rotation.size):
                    store(values, self.value(row, rotation.dim(e)), e)
                rotation.apply(values)
                for e in range(0, rotation.size, 2):
                    dim = hold(rotation.dim(e))
                    pack_halves(word[0], values[e], values[e + 1])
                    store_shared(self._place(row, dim), word[0])

    def _place(self, row: Expr, dim: Expr) -> Expr:
        """The address of the word with the numbers `dim` and `dim` + 1 of a row."""
        column, in_column = dim >> 4, dim & 15
        operand = column * self.eights + (row >> 3)
        lane = (row & 7) * 4 + ((in_column & 7) >> 1)
        return self.address + u32((operand * WARP + lane) * 8 + (in_column >> 3) * 4)

    def operand(self, first: Expr, lane: Expr) -> Callable[[int, int], Buffer]:
        """What `WarpAttention` reads: rows number m are those of eight number `first` + m."""
        start = hold(self.address + u32(first) * u32(OPERAND_BYTES) + u32(lane) * u32(8))
        return lambda column, m: load_words(start + u32((column * self.eights + m) * OPERAND_BYTES), 2, "query_operand")


def scaled(value: Expr, exists: Expr, factor: float) -> Expr:
    """A number of a query as float32 times the factor; 0 where there is no query."""
    return tirx.Select(exists, f32(value) * f32(factor), f32(0.0))
