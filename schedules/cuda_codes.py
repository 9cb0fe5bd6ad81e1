"""Codes on the device: codebooks in shared memory, units taken apart and put together.

Both sides of the cache pack 16 values in a row, along dims for K and along tokens for V: a plane of width w keeps them
in w units (`tqc.codec.layout`). So the unit of work is a group of 16 values, `bits` units in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.layout import LANES, code_bits, planes
from tqc.codec.lloyd_max import codebook
from tqc.schedules.cuda_builder import f32, i32, local, phase, shared, store


@dataclass(frozen=True)
class Books:
    """The codebooks of the schemes of one kernel, in shared memory, by bits."""

    tables: dict[int, Buffer]

    @classmethod
    def declare(cls, schemes: tuple[str, ...], head_dim: int, threads: int, *, thresholds: bool = False) -> Books:
        """Fills the tables of all coded schemes, with thresholds in the place of centroids if asked."""
        tables = {}
        for bits in sorted({code_bits(scheme) for scheme in schemes} - {0}):
            values = codebook(bits, head_dim)[1 if thresholds else 0]
            table = shared(f"thresholds_{bits}" if thresholds else f"centroids_{bits}", len(values))
            with phase(len(values), threads) as entry:
                store(table, _pick(values, entry, 0), entry)
            tables[bits] = table
        return cls(tables)


def _pick(values: np.ndarray, index: Expr, start: int) -> Expr:
    """values[index − start] as a tree of selections: constants cost no memory traffic and need no argument."""
    if len(values) == 1:
        return f32(float(values[0]))
    middle = len(values) // 2
    lower, upper = _pick(values[:middle], index, start), _pick(values[middle:], index, start + middle)
    return tirx.Select(index < start + middle, lower, upper)


def plane_offset(values: int, shift: int) -> int:
    """Elements that the planes below `shift` take in a page of `values` values."""
    return values * shift // LANES


def load_group(unit: Callable[[int, int], Expr], bits: int) -> Callable[[Expr], Expr]:
    """Reads the units of 16 codes; the function returned gives the code of value `j` as int32.

    `unit(shift, i)` is unit i of the group in the plane at `shift`.
    """
    words = local("words", bits, "uint32")
    for width, shift in planes(bits):
        for i in range(width):
            store(words, unit(shift, i), shift + i)

    def code(j: Expr) -> Expr:
        parts = []
        for width, shift in planes(bits):
            word = words[shift + tirx.floordiv(j * width, i32(LANES))]
            offset = tirx.Cast("uint32", tirx.floormod(j * width, i32(LANES)))
            field = (word >> offset) & tirx.const((1 << width) - 1, "uint32")
            parts.append(field << tirx.const(shift, "uint32") if shift else field)
        return tirx.Cast("int32", _either(parts))

    return code


def _either(parts: list[Expr]) -> Expr:
    whole = parts[0]
    for part in parts[1:]:
        whole = whole | part
    return whole


def store_group(codes: Buffer, put: Callable[[int, int, int, Expr], None], bits: int) -> None:
    """Packs the 16 codes of the local array `codes` (uint32); `put(shift, width, i, word)` stores unit i of
    the group in a plane."""
    for width, shift in planes(bits):
        per_unit = LANES // width
        for i in range(width):
            fields = [
                ((codes[i * per_unit + slot] >> shift) & ((1 << width) - 1)) << (slot * width)
                for slot in range(per_unit)
            ]
            put(shift, width, i, tirx.Cast("uint16", _either(fields)))


class Encoder:
    """Finds codes by halving, in registers: bound expressions would be inlined into each other at every step."""

    def __init__(self, thresholds: Buffer, bits: int) -> None:
        self.thresholds, self.bits = thresholds, bits
        self.x, self.found = local("encoded", 1), local("found", 1, "int32")

    def __call__(self, x: Expr) -> Expr:
        """The number of thresholds below x, as int32; NaN is above none. Valid until the next call."""
        store(self.x, x, 0)
        store(self.found, i32(0), 0)
        for bit in reversed(range(self.bits)):
            step = 1 << bit
            above = self.thresholds[self.found[0] + (step - 1)] < self.x[0]
            store(self.found, self.found[0] + tirx.Select(above, i32(step), i32(0)), 0)
        return self.found[0]
