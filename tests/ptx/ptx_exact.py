"""Rounding of exact fractions, for tests."""

from __future__ import annotations

import math
from fractions import Fraction


def rounded(value: Fraction, mode: str, bits: int = 24, least: int = -149) -> float:
    """The exact value with `bits` bits of mantissa, no finer than 2^least; no overflow."""
    if value == 0:
        return 0.0
    exponent = math.floor(math.log2(abs(value)))
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    unit = Fraction(2) ** max(exponent - bits + 1, least)
    scaled = value / unit
    low = math.floor(scaled)
    rest = scaled - low
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1),
        "rz": rest > 0 and value < 0,
        "rm": False,
        "rp": rest > 0,
    }[mode]
    return float((low + up) * unit)
