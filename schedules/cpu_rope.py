"""Rotary position embedding on the CPU (Su et al. 2021, eq. 34, rotate-half): the angles of a token serve all heads."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .cpu_rows import LANES, for_rows, let, load, splat, store, vector_type

# Cephes' single-precision series on [-π/4, π/4], relative error below 1e-7 (S. Moshier, sinf.c)
_SIN = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
_COS = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)


def make_rope(heads: int, head_dim: int, dtype: str = "float32", *, scaling: float = 1.0) -> tirx.PrimFunc:
    """The kernel (x[B, heads, S, D] dtype, positions[B, S] int64, inv_freq[D/2] float32, y like x).

    y = (x·cos + rotate_half(x)·sin)·scaling with the angle positions·inv_freq rounded to float32, as PyTorch has it.
    """
    half = head_dim // 2
    lanes = math.gcd(half, LANES)
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True, "op_pattern": 8})
        batch, seq = (IRBuilder.name(name, T.int64()) for name in ("batch", "seq"))
        handles = [T.arg(f"{name}_handle", T.handle()) for name in ("x", "positions", "inv_freq", "y")]
        x = IRBuilder.name("x", T.match_buffer(handles[0], (batch, heads, seq, head_dim), dtype))
        positions = IRBuilder.name("positions", T.match_buffer(handles[1], (batch, seq), "int64"))
        inv_freq = IRBuilder.name("inv_freq", T.match_buffer(handles[2], (half,), "float32"))
        y = IRBuilder.name("y", T.match_buffer(handles[3], (batch, heads, seq, head_dim), dtype))

        def token(number) -> None:
            b, s = let("b", number // seq), let("s", number % seq)
            position = let("position", T.Cast("float32", positions[b, s]))
            for start in range(0, half, lanes):
                angle = let("angle", splat(position, lanes) * load(inv_freq, [start], lanes))
                sin, cos = sin_cos(angle, lanes)
                sin, cos = (let(n, v * splat(scaling, lanes)) for n, v in (("sin", sin), ("cos", cos)))
                with T.serial(T.int64(0), T.int64(heads)) as h:
                    low = let("low", load(x, [b, h, s, start], lanes))
                    high = let("high", load(x, [b, h, s, half + start], lanes))
                    store(y, low * cos - high * sin, [b, h, s, start], lanes)
                    store(y, high * cos + low * sin, [b, h, s, half + start], lanes)

        for_rows(batch * seq, heads * head_dim, token)
    return builder.get()


def sin_cos(angle, lanes: int):
    """Sine and cosine of float32 angles below 2³⁰ in size, to 2e-7.

    The angle is reduced in float64: at 10⁶ a float32 reduction would leave few digits.
    """
    double, integer = vector_type("float64", lanes), vector_type("int32", lanes)

    def wide(value):
        return splat(value, lanes, "float64")

    exact = let("exact", T.Cast(double, angle))
    turns = let("turns", T.floor(exact * wide(2 / math.pi) + wide(0.5)))
    rest = let("rest", T.Cast(vector_type("float32", lanes), exact - turns * wide(math.pi / 2)))
    quadrant = let("quadrant", T.Cast(integer, turns))
    square = let("square", rest * rest)
    sine = let("sine", rest + rest * square * _series(_SIN, square, lanes))
    one = splat(1.0, lanes)
    cosine = let("cosine", one - square * splat(0.5, lanes) + square * square * _series(_COS, square, lanes))

    def bit(value, number):
        return T.bitwise_and(value, splat(number, lanes, "int32")) != splat(0, lanes, "int32")

    def signed(value, negative):
        return tirx.Select(negative, splat(0.0, lanes) - value, value)

    swapped = bit(quadrant, 1)
    sin = signed(tirx.Select(swapped, cosine, sine), bit(quadrant, 2))
    cos = signed(tirx.Select(swapped, sine, cosine), bit(quadrant + splat(1, lanes, "int32"), 2))
    return sin, cos


def _series(coefficients, x, lanes: int):
    value = splat(coefficients[-1], lanes)
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + splat(coefficient, lanes)
    return value
