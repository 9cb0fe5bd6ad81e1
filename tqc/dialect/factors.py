"""Ops that multiply the last axis by a matrix of the codec, and that matrix."""

from __future__ import annotations

import numpy as np
from tvm import relax

from .registry import is_op_call
from .rotate import factor_of as _rotation
from .sketch import factor_of as _sketch

_FACTORS = {"rotate": _rotation, "sketch": _sketch}


def is_constant_product(value: object) -> bool:
    """Whether `value` is a `tqc.rotate` or a `tqc.sketch`."""
    return any(is_op_call(value, name) for name in _FACTORS)


def constant_factor(call: relax.Call) -> np.ndarray:
    """The float64 matrix M of a call that `is_constant_product`: its result is x·M."""
    return next(factor(call) for name, factor in _FACTORS.items() if is_op_call(call, name))
