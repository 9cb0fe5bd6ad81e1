"""Minimum, maximum and saturation of floats as PTX has them."""

from __future__ import annotations

import numpy as np


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The other operand where one is NaN; −0 is less than 0."""
    found = np.fmin(a, b)
    zeros = (found == 0) & (a == b)
    return np.where(zeros, np.where(np.signbit(a), a, b), found) if np.count_nonzero(zeros) else found


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The other operand where one is NaN; 0 is greater than −0."""
    found = np.fmax(a, b)
    zeros = (found == 0) & (a == b)
    return np.where(zeros, np.where(np.signbit(a), b, a), found) if np.count_nonzero(zeros) else found


def saturated(x: np.ndarray) -> np.ndarray:
    """Between 0 and 1; NaN becomes 0."""
    return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))
