"""`tqc.rotate`: x·Πᵀ over the last axis with the codec's orthogonal matrix, or its inverse."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tqc.codec import rotation

from .registry import cast, define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    return relax.TensorType(x.shape, dtype_of(x))


def factor_of(call: relax.Call) -> np.ndarray:
    """The float64 matrix M [D, D] with `rotate(x) = x·M`."""
    matrix = rotation.matrix(int(call.args[0].ty.shape[-1]), int(call.attrs["seed"]), int(call.attrs["rounds"]))
    return matrix if bool(call.attrs["inverse"]) else matrix.T


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x = call.args[0]
    factor = np.ascontiguousarray(factor_of(call), np.float32)
    rotated = bb.emit(relax.op.matmul(cast(bb, x, "float32"), relax.const(factor)))
    return cast(bb, rotated, dtype_of(x.ty))


OP = define_op("rotate", "Multiplies the last axis by the codec's orthogonal matrix.", ("x",), _infer, _legalize)


def rotate(x: relax.Expr, *, seed: int = 0, rounds: int = 1, inverse: bool = False) -> relax.Call:
    """x [..., D] → x·Πᵀ, or x·Π if `inverse`; accumulated in float32 (TurboQuant, arXiv:2504.19874, §3.1).

    `rounds` of signs and Hadamard transforms: 1, or 2 for vectors of very few nonzero coordinates.
    """
    if rounds not in (1, 2):
        raise ValueError(f"a rotation has 1 or 2 rounds, found {rounds}")
    return make_call(OP, [x], seed=int(seed), rounds=int(rounds), inverse=bool(inverse))
