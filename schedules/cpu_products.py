"""Register-tiled sums of products, the inner loop of every CPU attention kernel.

sum[r, lane] = start[r, lane] + Σ_row coefficient[r, row] · value[row, lane]: for QKᵀ a row is a dim and a lane a token,
for PV a row is a token and a lane a dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T

from tqc.schedules.cpu_simd import Simd, let


def sum_products(
    simd: Simd,
    *,
    rows: int,
    start: Callable[[int, int], Expr],
    coefficient: Callable[[int, Expr], Expr],
    values: Callable[[Expr], Iterable[tuple[Expr, Sequence[Expr]]]],
    steps: tuple[Expr | int, Expr | int],
    blocks: int,
    chains: int = 1,
    each_step: Callable[[Expr], None] | None = None,
    finish: Callable[[int, int, Expr], None],
) -> None:
    """Emits the sums for `rows` coefficients and `blocks` vectors, all held in registers.

    Each sum is `chains` sums whose rows take turns, so that few sums need not wait for their own last addition.
    `values(step)` gives (row number, its `blocks` vectors) pairs for each step from steps[0] to steps[1].
    """
    sums = [
        [[simd.variable(start(r, c) if n == 0 else 0.0) for n in range(chains)] for c in range(blocks)]
        for r in range(rows)
    ]
    with T.serial(steps[0], steps[1]) as step:
        if each_step:
            each_step(step)
        for number, (row, vectors) in enumerate(values(step)):
            for r in range(rows):
                factor = let(simd.splat(coefficient(r, row)))
                for c in range(blocks):
                    part = sums[r][c][number % chains]
                    part.set(part.value + factor * vectors[c])
    for r in range(rows):
        for c in range(blocks):
            total = sums[r][c][0].value
            for part in sums[r][c][1:]:
                total = total + part.value
            finish(r, c, total)


def tile(count: int, budget: int) -> int:
    """The largest divisor of `count` that is at most `budget`, and at least 1."""
    return max(size for size in range(1, count + 1) if count % size == 0 and size <= max(1, budget))
