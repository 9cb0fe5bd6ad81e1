"""`tqc.rotate`: x·Πᵀ over the last axis with the codec's orthogonal matrix, or its inverse."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tqc.codec import rotation

from .registry import cast, define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    return relax.TensorType(x.shape, dtype_of(x))


def right_factor(head_dim: int, seed: int, inverse: bool) -> np.ndarray:
    """The float32 matrix M [D, D] with `rotate(x) = x·M`."""
    matrix = rotation.matrix(head_dim, seed)
    return np.ascontiguousarray(matrix if inverse else matrix.T, dtype=np.float32)


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x = call.args[0]
    factor = right_factor(int(x.ty.shape[-1]), int(call.attrs["seed"]), bool(call.attrs["inverse"]))
    rotated = bb.emit(relax.op.matmul(cast(bb, x, "float32"), relax.const(factor)))
    return cast(bb, rotated, dtype_of(x.ty))


OP = define_op("rotate", "Multiplies the last axis by the codec's orthogonal matrix.", ("x",), _infer, _legalize)


def rotate(x: relax.Expr, *, seed: int = 0, inverse: bool = False) -> relax.Call:
    """x [..., D] → x·Πᵀ, or x·Π if `inverse`; accumulated in float32 (TurboQuant, arXiv:2504.19874, §3.1)."""
    return make_call(OP, [x], seed=int(seed), inverse=bool(inverse))
