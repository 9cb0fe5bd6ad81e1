"""How long queries and keys are, told from the weights alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tqc.dialect import is_op_call

from .key_bias import array_of, mean_squares

_PASSED = frozenset(f"relax.{name}" for name in ("permute_dims", "reshape", "astype", "expand_dims", "squeeze"))
_STEPS = 16


def head_norms(mod: tvm.IRModule, weights: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
    """Layer → root mean square lengths of its queries and of its keys, over the heads.

    For independent components of the size that the norm before the product gives them; a norm of queries or keys
    themselves says it exactly. Layers where either is made in another way are left out.
    """
    values = {b.var: b.value for block in mod["main"].body.blocks for b in block.bindings}
    found = {}
    for call in values.values():
        if is_op_call(call, "attention"):
            squares = [_mean_square(values, x, weights) for x in call.args[:2]]
            if None not in squares:
                found[int(call.attrs["layer"])] = tuple(float(np.sqrt(s)) for s in squares)
    return found


def _mean_square(values: Mapping[relax.Var, relax.Expr], x: relax.Expr, weights: Mapping[str, Any]) -> float | None:
    """Mean over the heads of ‖x‖², x [B, heads, S, D]."""
    heads, bias = int(x.ty.shape[1]), 0.0
    for _ in range(_STEPS):
        value = values.get(x)
        name = getattr(getattr(value, "op", None), "name", "")
        if name == "tqc.rms_norm":
            gains = array_of(value.args[1], weights).astype(np.float64)
            return float(np.square(gains).sum())
        if name == "relax.matmul" or is_op_call(value, "matmul_nbits"):
            try:
                return float(mean_squares(values, value, weights).sum() + bias) / heads
            except (KeyError, AttributeError):  # a product of something else than a weight
                return None
        if name == "relax.add":
            sides = [side for side in value.args if side not in values and len(side.ty.shape) == 1]
            if len(sides) != 1:
                return None
            bias += float(np.square(array_of(sides[0], weights).astype(np.float64)).sum())
            x = next(side for side in value.args if not side.same_as(sides[0]))
        elif name in _PASSED or name == "tqc.rope":
            x = value.args[0]
        else:
            return None
    return None
