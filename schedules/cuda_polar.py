"""PolarQuant pages on CUDA: blocks of 16 dims as a radius and 15 angles, packed along tokens on both sides.

Kernels need no trigonometry: codes are found by comparing with the tangents of the thresholds, and read through a table
of cosines and sines (`cuda_codes.turns`). A value is the product of a radius and four of these, which the lanes of a
fragment would share in part; so a warp expands a column of 64 tokens into float16 fragments in shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.form import BLOCK, Form
from tqc.codec.fragments import STRIPS, TOKENS
from tqc.codec.polar import LEVEL_BITS, angles, level_rows
from tqc.schedules.cuda_builder import divide, f32, i32, local, phase, store, to
from tqc.schedules.cuda_codes import turn_offset
from tqc.schedules.cuda_encode import HALF_OVERFLOW, Value
from tqc.schedules.cuda_fragments import exact_element, scale_element
from tqc.schedules.cuda_ptx import (
    WARP,
    hold,
    load_shared_float,
    load_shared_half,
    pack_halves,
    registers,
    store_shared,
    store_shared_half,
    u32,
)

_LEVELS = range(1, len(LEVEL_BITS) + 1)
_WORD = 32
_TOKENS = 16  # that a thread writes: whole words of every angle


def _word(head_dim: int, level: int, number: Expr | int) -> Expr | int:
    """The first word of angle `number` of a level."""
    first = level_rows(head_dim, 1).stop
    if level == 1:
        return number * (TOKENS * LEVEL_BITS[0] // _WORD)
    row = level_rows(head_dim, level).start - first + number
    return first * (TOKENS * LEVEL_BITS[0] // _WORD) + row * (TOKENS * LEVEL_BITS[1] // _WORD)


@dataclass(frozen=True)
class PolarPage:
    """Writes one side of the page `at` (place and KV head)."""

    head_dim: int
    units: Buffer
    scales: Buffer
    at: tuple[Expr, ...]

    def write(self, value: Value, threads: int) -> None:
        """A thread writes 16 tokens of a block. A radius that is no finite float16 is stored as NaN."""
        groups = TOKENS // _TOKENS
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
                    unit, slot = divide(t, _WORD // LEVEL_BITS[level - 1])
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
                store(self.scales, finite, *self.at, block * TOKENS + scale_element(token))
            for level in _LEVELS:
                count, per_angle = BLOCK >> level, _words(level) // (BLOCK >> level)
                for i in range(count):
                    for u in range(per_angle):
                        at = _word(self.head_dim, level, block * count + i) + group * per_angle + u
                        store(self.units, words[level][i * per_angle + u], *self.at, at)


def _words(level: int) -> int:
    """Words of a level in 16 tokens of a block."""
    return (BLOCK >> level) * _TOKENS * LEVEL_BITS[level - 1] // _WORD


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


def expand_column(
    side: str,
    form: Form,
    column: int,
    page: Expr,
    turns: Expr,
    target: Expr,
    lane: Expr,
    exists: Callable[[Expr], Expr] | None,
) -> None:
    """Block `column` of a page in shared memory at `page`, as float16 fragments [strip, lane, 8] at `target`.

    `turns`: the table's address. Each lane of the warp expands two tokens; the warp has to be synchronised before and
    after. `exists(token)`: of values, whether anything was written for a token; what was not becomes zeros.
    """
    head_dim, radii = form.head_dim, 2 * form.units(TOKENS)
    word, half = registers("angles", 1, "uint16"), registers("halves", 1, "uint32")
    with T.serial(0, TOKENS // WARP) as turn:
        token = hold(turn * WARP + lane)
        radius = registers("radius", 1, "uint16")
        load_shared_half(radius[0], page + u32(radii + 2 * column * TOKENS) + u32(scale_element(token)) * u32(2))
        values = registers("turned", 1)
        read = tirx.Cast("float32", tirx.reinterpret("float16", radius[0]))
        store(values, read if exists is None else tirx.Select(exists(token), read, f32(0.0)), 0)
        for level in reversed(_LEVELS):
            bits, count = LEVEL_BITS[level - 1], BLOCK >> level
            split = registers(f"turned_{level}", 2 * count)
            for i in range(count):
                start = 4 * _word(head_dim, level, column * count + i)
                unit, slot = divide(token, 16 // bits)
                load_shared_half(word[0], page + u32(start) + u32(unit) * u32(2))
                code = hold((u32(word[0]) >> u32(slot * bits)) & u32((1 << bits) - 1))
                for part in range(2):
                    at = turns + u32(4 * turn_offset(level, part)) + code * u32(4)
                    load_shared_float(split[2 * i + part], at)
                    store(split, values[i] * split[2 * i + part], 2 * i + part)
            values = split
        for i in range(0, BLOCK, 2):
            pack_halves(half[0], values[i], values[i + 1])
            at = target + u32(exact_element(side, token, i32(i), STRIPS)) * u32(2)
            if side == "k":  # neighbouring dims of a token lie in one word
                store_shared(at, half[0])
            else:
                store_shared_half(at, tirx.Cast("uint16", half[0] & u32(0xFFFF)))
                odd = target + u32(exact_element(side, token, i32(i + 1), STRIPS)) * u32(2)
                store_shared_half(odd, tirx.Cast("uint16", half[0] >> u32(16)))
