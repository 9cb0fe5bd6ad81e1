"""Matrices in shared memory as the tensor cores of sm_90a read them: in core matrices, without swizzle.

A core matrix is eight rows of 16 bytes, eight float16 numbers, one behind the other. A tile of K·8 × N·8 numbers is
`[K, N]` core matrices. Either axis may be the one along the 16 bytes; a descriptor tells the instruction where the tile
begins and how far apart core matrices are along both axes (PTX ISA, "Asynchronous warpgroup level matrix shared memory
layout"; the two strides are the same whichever axis runs along the 16 bytes, see `descriptor`).

A column of operand A (`tqc.codec.fragments`), a lane's four registers a strip, is four such core matrices, each one
register of all lanes: eight rows of four lanes with two numbers.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIPS, TOKENS
from tqc.schedules.cuda_builder import i32, store, when
from tqc.schedules.cuda_flash import Part, Side
from tqc.schedules.cuda_ptx import WARP, hold, multiply_pairs, pack_halves, permute, registers, store_shared, u32

CORE_BYTES = 128
EDGE = 8
"""Rows of a core matrix, and numbers of a row."""


def tile_bytes(rows: int, columns: int) -> int:
    """Bytes of a tile of float16 numbers."""
    return 2 * rows * columns


def descriptor(address: Expr, leading: int, stride: int) -> Expr:
    """The 64-bit descriptor of an operand at `address`. `leading`: bytes from a core matrix to the next one along the
    instruction's K, of 16; `stride`: to the next one along its M or N. Multiples of 16, less than 2¹⁸.

    That is what the two fields mean without swizzle, for an operand whose rows run along K as for one that is
    transposed.
    """
    high = (leading // 16) << 16 | (stride // 16) << 32
    return hold(tirx.Cast("uint64", (address >> u32(4)) & u32(0x3FFF)) | tirx.const(high, "uint64"))


def write_queries(
    address: Expr, rows: int, dims: int, thread: Expr, threads: int, value: Callable[[Expr, Expr], Expr]
) -> None:
    """`rows` rows of queries as `[dims / 8, rows / 8]` core matrices, dims along the 16 bytes; see `cuda_queries`."""
    items, word = dims // EDGE * (rows // EDGE) * WARP, registers("query_word", 1, "uint32")
    with T.serial(0, -(-items // threads)) as turn:
        item = hold(turn * threads + thread)
        with when(item < items):
            core = item >> 5
            row = hold(tirx.floormod(core, i32(rows // EDGE)) * EDGE + ((item & 31) >> 2))
            dim = hold(tirx.floordiv(core, i32(rows // EDGE)) * EDGE + (item & 3) * 2)
            pack_halves(word[0], value(row, dim), value(row, dim + 1))
            store_shared(address + u32(item) * u32(4), word[0])


def core_offset(k: Expr | int, row: Expr | int, rows: int) -> Expr:
    """Bytes before a core matrix of a tile `[K, rows]`: K are dims of keys or tokens of values, rows the others."""
    return u32(i32(k) * rows + i32(row)) * u32(CORE_BYTES)


def write_side(
    side: str, tile: Side, rows: int, address: Expr, lane: Expr, turn: Callable[[int], Expr], exists=None
) -> None:
    """Keys or values of a tile as core matrices, multiplied by their scales; the warp does the columns of its `turn`.

    Of keys `[rows / 8, tokens / 8]` with dims along the 16 bytes, of values `[tokens / 8, rows / 8]` with tokens along
    them. `exists(token)`: of values, whether there is one; the others are zeros, whatever their scales are. Columns
    that have no codes are zeros too.
    """
    operands = registers("core_operands", 4 * STRIPS, "uint32")
    found = {column.index: (part, column) for part in tile.parts for column in part.columns}
    for index in range(columns(tile)):
        with when(turn(index)):
            if index in found:
                part, column = found[index]
                column.load(operands)
                if part.scale is not None:
                    _scale(side, part, tile, operands, lane)
                if exists is not None:
                    _clear(operands, tile.strips, lane, exists)
            else:
                for n in range(4 * tile.strips):
                    store(operands, u32(0), n)
            for strip in range(tile.strips):
                for n in range(4):
                    # registers 1 and 3 are eight rows further on, 2 and 3 eight of the instruction's K
                    row, k = n % 2, n // 2
                    if side == "k":
                        at = core_offset(2 * index + k, 2 * strip + row, TOKENS // EDGE)
                    else:
                        at = core_offset(2 * strip + k, 2 * index + row, rows // EDGE)
                    store_shared(address + at + u32(lane) * u32(4), operands[4 * strip + n])


def columns(tile: Side) -> int:
    """Columns of a side, up to the last one that has any."""
    return 1 + max(column.index for part in tile.parts for column in part.columns)


def _scale(side: str, part: Part, tile: Side, operands: Buffer, lane: Expr) -> None:
    """Registers times the scales of their tokens, as float16."""
    pair = registers("scale_pair", 2, "uint32")
    if side == "k":  # a register has one token: g, or g + 8
        words = other = tile.scales(part.scale)
        selectors = (0x1010, 0x3232)
    else:  # a register has tokens 2t and 2t + 1, or those eight further on
        t = hold((lane & 3) * 2)
        words, other = tile.scales(part.scale, t), tile.scales(part.scale, t + 1)
        selectors = (0x5410, 0x7632)
    for strip in range(tile.strips):
        for half, selector in enumerate(selectors):
            permute(pair[half], words[strip], other[strip], u32(selector))
        for n in range(4):
            half = n % 2 if side == "k" else n // 2
            multiply_pairs(operands[4 * strip + n], operands[4 * strip + n], pair[half])


def _clear(operands: Buffer, strips: int, lane: Expr, exists: Callable[[Expr], Expr]) -> None:
    """Zeros for values of tokens that are not there."""
    first = hold((lane & 3) * 2)
    for strip in range(strips):
        for half in range(2):
            token = first + (COLUMN * strip + 8 * half)
            low = tirx.Select(exists(token), u32(0xFFFF), u32(0))
            mask = hold(low | tirx.Select(exists(token + 1), u32(0xFFFF0000), u32(0)))
            for n in range(2):
                at = 4 * strip + 2 * half + n
                store(operands, operands[at] & mask, at)
