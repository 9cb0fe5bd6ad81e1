"""Scales of one byte, for schemes that end in `-s8`: floats without a sign, of 4 exponent and 4 mantissa bits.

Code c of 1 … 254 is 2^(c//16 − 6) · (1 + c % 16 / 16): .0166 … 960. 0 is zero, 255 is NaN. Every value is a float16:
its bits are (c + 144) · 64. A scale is rounded to the nearest, by at most 1/32 of it; that adds 1.8e-4 of a vector's
power to the error of its codes, where they alone make 9e-3 at 4 bits.
"""

from __future__ import annotations

import numpy as np

NAN = 255
FLOAT16_BASE, FLOAT16_SHIFT = 9 << 4, 6
"""A code's float16 has the bits (code + base) << shift."""
FLOAT32_BASE, FLOAT32_SHIFT = 121 << 4, 19
LARGEST = 960.0
LEAST = 2.0**-7
"""What is less becomes zero: half of the least code's value, about."""


def encode(scale: np.ndarray) -> np.ndarray:
    """Codes uint8 of scales ≥ 0, any float; what is too large, negative or NaN gets 255. Halves are rounded up."""
    scale = np.asarray(scale, np.float32)
    bits = scale.view(np.int32).astype(np.int64)
    rounded = (bits + (1 << (FLOAT32_SHIFT - 1)) >> FLOAT32_SHIFT) - FLOAT32_BASE
    code = np.clip(rounded, 1, NAN)
    code = np.where(scale < LEAST, 0, code)
    return np.where((scale >= 0) & np.isfinite(scale), code, NAN).astype(np.uint8)


def decode(code: np.ndarray) -> np.ndarray:
    """Scales float16 of codes uint8."""
    code = np.asarray(code, np.uint8)
    value = ((code.astype(np.uint16) + FLOAT16_BASE) << FLOAT16_SHIFT).view(np.float16)
    return np.where(code == 0, np.float16(0), np.where(code == NAN, np.float16(np.nan), value))


def rounded(scale: np.ndarray) -> np.ndarray:
    """Scales as they are stored, float16."""
    return decode(encode(scale))
