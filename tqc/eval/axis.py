"""Numbers of axes: where ticks lie and how they are written."""

from __future__ import annotations

import math


def ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 · 10ⁿ within two bounds above 0; only powers of ten over many decades, 3 and 7 as well within one."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = math.log10(high / low)
    steps = (1,) if decades > 3 else (1, 2, 5) if decades > 1 else (1, 2, 3, 5, 7)
    return [value for n in exponents for step in steps if low <= (value := step * 10.0**n) <= high]


def short(value: float) -> str:
    """A number of an axis: 0.002, 20, 3e-6."""
    return f"{value:.0e}".replace("e-0", "e-") if value < 1e-4 else f"{value:.10f}".rstrip("0").rstrip(".")


def tokens(count: float) -> str:
    """A length: 4k for 4,096, 104k for 106,496, 2M; thousands where 1,024 does not divide it."""
    for unit, name in ((1 << 20, "M"), (1 << 10, "k")):
        if count >= unit:
            value = count / unit if count % 1024 == 0 else count / (10**6 if name == "M" else 10**3)
            return f"{value:.4g}{name}"
    return f"{count:.0f}"
