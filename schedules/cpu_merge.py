"""The end of a split decode: the sums of the tasks of one query head become its output."""

from __future__ import annotations

from dataclasses import dataclass
from math import e, log2

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.schedules.cpu_simd import Simd, Variable, f32, i64, let, maximum, scratch

NOTHING = -1e30
"""The score of a token that a query does not see, and the maximum of no scores."""


def sink_score(logits: Buffer, head: Expr) -> Expr:
    """The sink logit of a query head in base 2, as scores are; never below that of no scores at all."""
    score = let(logits[head] * f32(log2(e)))
    return let(tirx.Select(score < f32(NOTHING), f32(NOTHING), score))  # NaN stays


@dataclass(frozen=True)
class Partial:
    """What tasks leave of their tokens: sums [task, row, value row], peak [task, row], mass [task, row, lane]."""

    sums: Buffer
    peak: Buffer
    mass: Buffer

    @classmethod
    def declare(cls, simd: Simd, tasks: Expr, rows: int, width: int) -> Partial:
        """Scratch for `tasks` tasks of `rows` query rows and `width` rows of values."""
        return cls(scratch((tasks, rows, width)), scratch((tasks, rows)), scratch((tasks, rows, simd.lanes)))

    def merge(self, simd: Simd, first: Expr, splits: int, row: Expr, sink: Expr | None, y: Buffer, *at: Expr) -> None:
        """Writes y[at] of one query row from its tasks first …, each scaled to the common maximum."""
        peak = Variable(1, f32(NOTHING) if sink is None else sink)
        with T.serial(i64(splits)) as s:
            peak.set(maximum(self.peak[first + s, row], peak.value))
        factors = scratch((splits,))
        mass = simd.variable(0.0)
        with T.serial(i64(splits)) as s:
            factor = simd.exp2(simd.splat(self.peak[first + s, row] - peak.value))
            T.buffer_store(factors, tirx.Shuffle([factor], [0]), [s])
            mass.set(mass.value + simd.load(self.mass, first + s, row, 0) * factor)
        total = let(simd.total(let(mass.value)))
        if sink is not None:
            total = let(total + tirx.Shuffle([simd.exp2(simd.splat(sink - peak.value))], [0]))
        inverse = let(tirx.Select(total == f32(0), f32(0), f32(1) / total))
        with T.serial(i64(int(self.sums.shape[-1]) // simd.lanes)) as c:
            out = simd.variable(0.0)
            with T.serial(i64(splits)) as s:
                part = simd.load(self.sums, first + s, row, c * simd.lanes)
                out.set(out.value + part * simd.splat(factors[s]))
            simd.store(y, out.value * simd.splat(inverse), *at, c * simd.lanes)
