"""Rounding to floats as IEEE 754 says, in all modes.

Sums and products are formed in float64. What float64 cannot hold is kept as one sticky bit: the last bit of a result
that is not exact is made odd (`odd_sum`), and then rounding it once more, to at least two bits fewer, gives what
rounding the exact value would give.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

_TIE = np.uint64(1 << 28)
_BELOW_FLOAT32 = np.uint64((1 << 29) - 1)
SMALLEST = {np.dtype(np.float32): np.float32(2.0**-126), np.dtype(np.float64): np.float64(2.0**-1022)}
MODES = ("rn", "rz", "rm", "rp")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal float32 numbers become zeros of their sign."""
    return np.where(np.abs(x) < SMALLEST[np.dtype(np.float32)], np.copysign(np.float32(0), x), x)


def odd_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float64 numbers: exact, or with an odd last bit between the two neighbours of the exact value."""
    total = a + b
    part = total - a
    return odd(total, (a - (total - part)) + (b - part))


def odd(near: np.ndarray, error: np.ndarray) -> np.ndarray:
    """A rounded float64 number whose exact value is `error` more, of which the sign counts: made odd if not exact."""
    inexact = (error != 0) & np.isfinite(near) & ~np.isnan(error)
    bits = near.view(np.int64).copy()
    bits -= inexact & ((error > 0) != (near > 0))  # rounded away from zero: take the neighbour nearer to it
    bits |= inexact
    return bits.view(np.float64)


def to_float32(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    """float64 to float32."""
    return nearest_or_directed(x, np.dtype(np.float32), mode)


def nearest_or_directed(x: np.ndarray, dtype: np.dtype, mode: str) -> np.ndarray:
    """float64 to a narrower float; rz, rm, rp: towards zero, down, up. rn: to nearest, ties to even."""
    near = x.astype(dtype)
    if mode == "rn" or x.dtype == dtype:
        return near
    back = near.astype(np.float64)
    over, under = back > x, back < x
    if mode == "rz":
        lower, upper = over & (x > 0), under & (x < 0)
    else:
        lower, upper = (over, np.zeros_like(over)) if mode == "rm" else (np.zeros_like(over), under)
    if not (lower.any() or upper.any()):
        return near
    size = dtype.itemsize
    bits = np.ascontiguousarray(near).view(f"i{size}").copy()
    # One step up or down: the bits of a negative number count the other way; zero is between the signs.
    sign = bits < 0
    bits = np.where(
        lower, np.where(sign, bits + 1, bits - 1), np.where(upper, np.where(sign, bits - 1, bits + 1), bits)
    )
    low, high = np.array([-(1 << (8 * size - 1)) + 1, 1]).astype(f"i{size}")
    zero = near.astype(np.float64) == 0
    bits = np.where(lower & zero, low, np.where(upper & zero, high, bits))
    return bits.astype(f"i{size}").view(dtype)


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a · b + c of float32 numbers, rounded once to nearest.

    The product is exact in float64. The sum is rounded to float64 and then to float32, which is wrong only where the
    first rounding gives the middle of two float32 numbers: those are added again with a sticky bit. Results below
    2^−126 may be off by that double rounding, 1 in 2^29 of them.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    ties = (total.view(np.uint64) & _BELOW_FLOAT32) == _TIE
    if np.count_nonzero(ties):
        total[ties] = odd_sum(product[ties], c[ties].astype(np.float64))
    return total


def fused_directed(a: np.ndarray, b: np.ndarray, c: np.ndarray, mode: str) -> np.ndarray:
    """a · b + c of float32 numbers as float32, rounded once."""
    return to_float32(odd_sum(np.multiply(a, b, dtype=np.float64), c.astype(np.float64)), mode)


def fused_float64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a · b + c of float64 numbers.

    The product as a sum of two numbers (Dekker), added to c with the errors of both: off by less than 0.5000001 units
    in the last place; where the parts overflow (beyond 2^996), a · b + c rounded twice.
    """
    product = a * b
    split = float(2**27 + 1)
    pieces = []
    for x in (a, b):
        up = split * x
        upper = up - (up - x)
        pieces.append((upper, x - upper))
    (a1, a0), (b1, b0) = pieces
    low = ((a1 * b1 - product) + a1 * b0 + a0 * b1) + a0 * b0
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    refined = total + (error + low)
    return np.where(np.isfinite(refined), refined, product + c)


def directed_float64(x: np.ndarray, error: np.ndarray, mode: str) -> np.ndarray:
    """x, rounded to nearest with this error (exact − x), rounded in another mode."""
    down = (error < 0) & ((mode == "rm") | ((mode == "rz") & (x > 0)))
    up = (error > 0) & ((mode == "rp") | ((mode == "rz") & (x < 0)))
    return np.where(down, np.nextafter(x, -np.inf), np.where(up, np.nextafter(x, np.inf), x))
