"""A straight line through latencies over the context, and where one line falls below another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tqc.eval.results import Part


class Line(Part):
    """`slope` · tokens + `intercept`, in seconds. `error`: the standard error of the slope, None for two points."""

    slope: float
    intercept: float
    error: float | None = None
    points: int = Field(ge=2)

    def at(self, tokens: float) -> float:
        return self.slope * tokens + self.intercept


class BreakEven(Part):
    """Where a line is below another's, for contexts of 0 tokens and more.

    `always` and `never` have no context; `from` it on, or `until` it. `beyond`: the context is longer than any that was
    measured, or shorter, so that the lines were only continued.
    """

    where: Literal["always", "never", "from", "until"]
    context: float | None = None
    beyond: bool = False


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """The line through (tokens, seconds) with the least sum of squared relative errors; None unless there are two
    different numbers of tokens and all times are above 0.

    Times scatter in proportion to their length. Were all deviations counted in seconds, those of the longest context
    would decide the constant, and with it where lines cross.
    """
    count = len(points)
    if len({x for x, _ in points}) < 2 or min(y for _, y in points) <= 0:
        return None
    weights = [y**-2 for _, y in points]
    whole = math.fsum(weights)
    mean_x, mean_y = (
        math.fsum(w * value for w, value in zip(weights, values, strict=True)) / whole
        for values in zip(*points, strict=True)
    )
    weighted = [(w, x - mean_x, y - mean_y) for w, (x, y) in zip(weights, points, strict=True)]
    spread = math.fsum(w * x * x for w, x, _ in weighted)
    slope = math.fsum(w * x * y for w, x, y in weighted) / spread
    rest = math.fsum(w * (y - slope * x) ** 2 for w, x, y in weighted)
    error = math.sqrt(rest / (count - 2) / spread) if count > 2 else None
    return Line(slope=slope, intercept=mean_y - slope * mean_x, error=error, points=count)


def break_even(ours: Line, peer: Line, measured: tuple[float, float] | None = None) -> BreakEven:
    """Where `ours` is below `peer`. `measured`: the shortest and the longest context that the lines were fitted to."""
    gain, lead = peer.slope - ours.slope, peer.intercept - ours.intercept
    if gain == 0 or -lead / gain <= 0:
        # They do not cross above 0: which is lower at 0, or climbs less from there, is lower everywhere.
        return BreakEven(where="always" if lead > 0 or (lead == 0 and gain > 0) else "never")
    context = -lead / gain
    beyond = measured is not None and not measured[0] <= context <= measured[1]
    return BreakEven(where="from" if gain > 0 else "until", context=context, beyond=beyond)
