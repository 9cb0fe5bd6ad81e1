"""PolarQuant pages on CUDA: blocks of 16 dims as a radius and 15 angles, packed along tokens on both sides.

Kernels need no trigonometry: codes are found by comparing with the tangents of the thresholds, and read through a table
of cosines and sines (`cuda_codes.turns`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.form import BLOCK
from tqc.codec.polar import LEVEL_BITS, angles, level_rows
from tqc.schedules.cuda_builder import divide, f32, i32, local, phase, store, to
from tqc.schedules.cuda_codes import turn_offset
from tqc.schedules.cuda_encode import HALF_OVERFLOW, Value

_LEVELS = range(1, len(LEVEL_BITS) + 1)
_UNIT = 16
_TOKENS = 8  # of one unit of the finer levels, two units of level 1


@dataclass(frozen=True)
class PolarPage:
    """One side of the page `at` (place and KV head)."""

    head_dim: int
    page: int
    units: Buffer
    scales: Buffer
    at: tuple[Expr, ...]

    def _unit(self, level: int, number: Expr, index: Expr) -> Expr:
        """Where unit `index` of angle `number` of a level is."""
        per_angle = self.page * LEVEL_BITS[level - 1] // _UNIT
        first = level_rows(self.head_dim, 1).stop
        if level == 1:
            return number * per_angle + index
        row = level_rows(self.head_dim, level).start - first + number
        return first * (self.page * LEVEL_BITS[0] // _UNIT) + row * per_angle + index

    def _load(self, level: int, number: Expr, index: Expr) -> Expr:
        return to("uint32", self.units[(*self.at, self._unit(level, number, index))])

    def read_keys(self, turns: Buffer) -> Callable[[Expr, Expr], Callable[[Expr], Expr]]:
        """A group of 16 rows is a block."""

        def group(block: Expr, token: Expr) -> Callable[[Expr], Expr]:
            values = local("radius", 1)
            store(values, f32(self.scales[(*self.at, block * self.page + token)]), 0)
            for level in reversed(_LEVELS):
                count = BLOCK >> level
                split = local(f"turned_{level}", 2 * count)
                for i in range(count):
                    word = T.Bind(self._load(level, block * count + i, _divide(token, level)[0]))
                    code = T.Bind(_field(word, _divide(token, level)[1], level))
                    for side in range(2):
                        store(split, values[i] * turns[turn_offset(level, side) + code], 2 * i + side)
                values = split
            return lambda j: values[j]

        return group

    def read_values(self, turns: Buffer) -> Callable[[Expr, Expr], Callable[[Expr], Expr]]:
        """A value is the radius of its block, turned once in each level."""

        def group(index: Expr, d: Expr) -> Callable[[Expr], Expr]:
            words, sides = {}, {}
            for level in _LEVELS:
                count = LEVEL_BITS[level - 1]  # units of 16 tokens
                words[level] = local(f"angles_{level}", count, "uint32")
                for u in range(count):
                    store(words[level], self._load(level, divide(d, 1 << level)[0], index * count + u), u)
                second = divide(divide(d, 1 << (level - 1))[0], 2)[1]
                sides[level] = T.Bind(turn_offset(level, 0) + second * (1 << LEVEL_BITS[level - 1]))
            radii = divide(d, BLOCK)[0] * self.page + index * _UNIT

            def value(j: Expr) -> Expr:
                x = f32(self.scales[(*self.at, radii + j)])
                for level in reversed(_LEVELS):
                    unit, slot = _divide(j, level)
                    x = x * turns[sides[level] + _field(words[level][unit], slot, level)]
                return x

            return value

        return group

    def write(self, value: Value, threads: int) -> None:
        """A thread writes 8 tokens of a block. A radius that is no finite float16 is stored as NaN."""
        groups = self.page // _TOKENS
        with phase(self.head_dim // BLOCK * groups, threads) as item:
            block, group = divide(item, groups)
            words = {level: local(f"words_{level}", _words(level), "uint32") for level in _LEVELS}
            for level in _LEVELS:
                for i in range(_words(level)):
                    store(words[level], tirx.const(0, "uint32"), i)
            radii = [local(f"radii_{level}", BLOCK >> level) for level in (0, *_LEVELS)]
            code = local("code", 1, "int32")
            with T.serial(0, _TOKENS) as t:
                token = T.Bind(group * _TOKENS + t)
                for i in range(BLOCK):
                    store(radii[0], value(token, block * BLOCK + i), i)
                for level in _LEVELS:
                    unit, slot = _divide(t, level)
                    per_angle = _words(level) // (BLOCK >> level)
                    for i in range(BLOCK >> level):
                        a, b = radii[level - 1][2 * i], radii[level - 1][2 * i + 1]
                        _find(code, a, b, level)
                        word = unit + i * per_angle
                        field = to("uint32", code[0]) << to("uint32", slot * LEVEL_BITS[level - 1])
                        store(words[level], words[level][word] | field, word)
                        store(radii[level], tirx.sqrt(a * a + b * b), i)
                radius = radii[-1][0]
                finite = tirx.Select(radius < f32(HALF_OVERFLOW), radius, f32(float("nan")))
                store(self.scales, finite, *self.at, block * self.page + token)
            for level in _LEVELS:
                count, per_angle = BLOCK >> level, _words(level) // (BLOCK >> level)
                for i in range(count):
                    for u in range(per_angle):
                        at = self._unit(level, block * count + i, group * per_angle + u)
                        store(self.units, to("uint16", words[level][i * per_angle + u]), *self.at, at)


def _words(level: int) -> int:
    """Units of a level in 8 tokens of a block."""
    return (BLOCK >> level) * _TOKENS * LEVEL_BITS[level - 1] // _UNIT


def _divide(token: Expr, level: int) -> tuple[Expr, Expr]:
    """The unit and the slot in it of a token's angle."""
    return divide(token, _UNIT // LEVEL_BITS[level - 1])


def _field(word: Expr, slot: Expr, level: int) -> Expr:
    bits = LEVEL_BITS[level - 1]
    return to("int32", (word >> to("uint32", slot * bits)) & tirx.const((1 << bits) - 1, "uint32"))


def _find(code: Buffer, a: Expr, b: Expr, level: int) -> None:
    """code[0] = the cell of the angle of (a, b): of the whole circle at level 1, else of a quarter."""
    store(code, i32(0), 0)
    if level == 1:  # turned into the first quarter, which has four of the sixteen cells
        store(code, tirx.Select(b < f32(0.0), i32(8), i32(0)), 0)
        a, b = tirx.Select(b < f32(0.0), -a, a), tirx.Select(b < f32(0.0), -b, b)
        store(code, code[0] + tirx.Select(a < f32(0.0), i32(4), i32(0)), 0)
        a, b = tirx.Select(a < f32(0.0), b, a), tirx.Select(a < f32(0.0), -a, b)
    for threshold in angles(level)[1][:3]:
        above = f32(float(np.float32(np.tan(np.float64(threshold))))) * a < b
        store(code, code[0] + tirx.Select(above, i32(1), i32(0)), 0)
