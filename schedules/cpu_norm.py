"""Root-mean-square norm on the CPU (Zhang & Sennrich 2019, eq. 4): x / sqrt(mean(x²) + ε) · weight."""

from __future__ import annotations

from functools import reduce
from operator import mul

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from .cpu_rows import LANES, at, for_rows, let, load, scratch, splat, store, total

CHAINS = 4  # independent sums, so that one addition need not wait for the one before


def make_rms_norm(
    hidden: int, epsilon: float, dtype: str = "float32", *, weight_dtype: str | None = None, leading: int = 2
) -> tirx.PrimFunc:
    """The kernel (x[..., hidden] dtype, weight[hidden] weight_dtype or dtype, y like x) with `leading` symbolic axes.

    The mean is taken in float32. Rows of no elements are allowed.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True, private=True):
        T.func_attr({"tirx.is_scheduled": True, "tirx.noalias": True, "op_pattern": 8})
        axes = [IRBuilder.name(f"n{i}", T.int64()) for i in range(leading)]
        handles = [T.arg(f"{name}_handle", T.handle()) for name in ("x", "weight", "y")]
        x = IRBuilder.name("x", T.match_buffer(handles[0], (*axes, hidden), dtype))
        weight = IRBuilder.name("weight", T.match_buffer(handles[1], (hidden,), weight_dtype or dtype))
        y = IRBuilder.name("y", T.match_buffer(handles[2], (*axes, hidden), dtype))

        def row(number) -> None:
            index = _unflatten(number, axes)
            scale = let("scale", T.float32(1) / T.sqrt(_sum_of_squares(x, index, hidden) / hidden + epsilon))
            for start, lanes, count in _pieces(hidden):
                with T.serial(T.int64(0), T.int64(count)) as i:
                    column = start + i * lanes
                    value = load(x, [*index, column], lanes) * splat(scale, lanes)
                    store(y, value * load(weight, [column], lanes), [*index, column], lanes)

        for_rows(reduce(mul, axes), hidden, row)
    return builder.get()


def _sum_of_squares(x, index, hidden: int):
    sums = [scratch(LANES) for _ in range(CHAINS)]
    for acc in sums:
        T.buffer_store(acc, splat(0.0, LANES), [at(0, LANES)])
    step = LANES * CHAINS
    with T.serial(T.int64(0), T.int64(hidden // step)) as i:
        for chain, acc in enumerate(sums):
            _add_square(acc, x, [*index, i * step + chain * LANES], LANES)
    for chain, start in enumerate(range(hidden // step * step, hidden - LANES + 1, LANES)):
        _add_square(sums[chain], x, [*index, start], LANES)
    every = at(0, LANES)
    T.buffer_store(sums[0], (sums[0][every] + sums[1][every]) + (sums[2][every] + sums[3][every]), [every])
    rest = scratch(1)
    T.buffer_store(rest, total(sums[0], LANES), [0])
    with T.serial(T.int64(0), T.int64(hidden % LANES)) as i:
        _add_square(rest, x, [*index, hidden // LANES * LANES + i], 1)
    return rest[0]


def _add_square(acc, x, index, lanes: int) -> None:
    value = let("value", load(x, index, lanes))
    T.buffer_store(acc, acc[at(0, lanes)] + value * value, [at(0, lanes)])


def _pieces(width: int) -> list[tuple[int, int, int]]:
    """(start, lanes, count): the whole vectors of a row, then its rest."""
    whole = width // LANES
    return [(0, LANES, whole), (whole * LANES, 1, width % LANES)]


def _unflatten(number, axes) -> list:
    index = []
    for axis in reversed(axes[1:]):
        index.append(number % axis)
        number = number // axis
    return [let(f"i{depth}", value) for depth, value in enumerate([number, *reversed(index)])]
