"""The splits of a context put together, in the order of the splits: the same bytes at every run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.schedules.cuda_builder import blocks, f32, i32, named, store, threads, to, when
from tqc.schedules.cuda_flash import HIDDEN, LOG2_E
from tqc.schedules.cuda_ptx import WARP, exp2, hold, registers
from tqc.schedules.cuda_rotate import Turn, WarpRotation

_WARPS = 4


@dataclass(frozen=True)
class Partials:
    """float32: sums of weighted values [B, H, split, P], the highest scores in base 2 and the sums of weights
    [B, H, split]; a workspace of the kernel."""

    values: Buffer
    tops: Buffer
    totals: Buffer

    @classmethod
    def allocate(cls, batch: Expr, heads: int, splits: int, rows: int) -> Partials:
        def array(name: str, *shape: int | Expr) -> Buffer:
            return named(name, T.sblock_alloc_buffer(shape, "float32"))

        sizes = (batch, heads, splits)
        return cls(array("parts", *sizes, rows), array("tops", *sizes), array("totals", *sizes))


def emit_merge(
    partials: Partials, used: Callable[[Expr], Expr], logits: Buffer | None, y: Buffer, turn: Turn | None = None
) -> None:
    """y [B, H, 1, P] = Σ f · part / Σ f · total over the first `used(b)` splits, f = 2^(top − highest top).

    Zeros where nothing was seen. A sink logit is one more top, of total 1 and part 0. `turn`: outputs leave the rotated
    basis of the values here, once a query head. A warp has a query head, each of its lanes P / 32 neighbouring dims.
    """
    batch, heads, rows = y.shape[0], int(y.shape[1]), int(y.shape[3])
    size = -(-rows // WARP)
    with blocks(-(-heads // _WARPS), 1, batch) as (x, _, b), threads(_WARPS * WARP) as thread:
        lane, head = hold(thread & 31), hold(i32(x) * _WARPS + (thread >> 5))
        rotation = None if turn is None else WarpRotation(rows, lane, turn.seed, turn.rounds, inverse=True)
        with when(head < heads):
            splits = used(b)
            sums, top, total = registers("sums", size), registers("top", 1), registers("total", 1)
            factor = registers("factor", 1)
            sink = None if logits is None else sink_score(logits, head)
            store(top, f32(HIDDEN) if sink is None else sink, 0)
            with T.serial(0, splits) as split:
                store(top, tirx.max(top[0], partials.tops[b, head, split]), 0)
            for e in range(size):
                store(sums, f32(0.0), e)
            store(total, f32(0.0), 0)
            if sink is not None:
                exp2(total[0], sink - top[0])
            with T.serial(0, splits) as split:
                exp2(factor[0], partials.tops[b, head, split] - top[0])
                store(total, total[0] + factor[0] * partials.totals[b, head, split], 0)
                for e in range(size):
                    at = tirx.min(lane * size + e, i32(rows - 1))
                    store(sums, sums[e] + factor[0] * partials.values[b, head, split, at], e)
            inverse = hold(tirx.Select(tirx.NE(total[0], f32(0.0)), f32(1.0) / total[0], f32(0.0)))
            for e in range(size):
                store(sums, sums[e] * inverse, e)
            if rotation is not None:
                rotation.apply(sums)
            for e in range(size):
                with when(lane * size + e < rows):
                    store(y, to(y.dtype, sums[e]), b, head, 0, lane * size + e)


def sink_score(logits: Buffer, head: Expr) -> Expr:
    """The sink logit of a query head in base 2, as scores are; never below that of a hidden token."""
    score = hold(logits[head] * f32(LOG2_E))
    return hold(tirx.Select(score < f32(HIDDEN), f32(HIDDEN), score))  # NaN stays
