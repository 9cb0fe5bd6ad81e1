"""`tqc.sketch`: a vector with its projections S·x behind it, and back: y[:D] + Sᵀ·y[D:].

Codes of a sketch are further rows of the coded vector (`tqc.codec.form`): a query meets them with S·q, and what values
add up to in them returns to the vector through Sᵀ.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tqc.codec import sketch as codec
from tqc.codec.form import Form, form

from .registry import cast, define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    stored, inverse = form_of(call), bool(call.attrs["inverse"])
    given, result = (stored.rows, stored.head_dim) if inverse else (stored.head_dim, stored.rows)
    if int(x.shape[-1]) != given:
        raise TypeError(f"x must have {given} numbers in its last axis, found shape {x.shape}")
    return relax.TensorType((*list(x.shape)[:-1], result), dtype_of(x))


def form_of(call: relax.Call) -> Form:
    """The form whose sketch a `tqc.sketch` applies."""
    return form(str(call.attrs["scheme"]), int(call.attrs["head_dim"]))


def factor_of(call: relax.Call) -> np.ndarray:
    """The float64 matrix [D, D + m], or [D + m, D] of the inverse, with `sketch(x) = x·M`."""
    stored = form_of(call)
    stacked = np.concatenate([np.eye(stored.head_dim), codec.matrix(stored, int(call.attrs["seed"]))])
    return stacked if bool(call.attrs["inverse"]) else stacked.T


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    x, dim = call.args[0], form_of(call).head_dim
    wide = cast(bb, x, "float32")
    rows = codec.matrix(form_of(call), int(call.attrs["seed"])).astype(np.float32)
    if bool(call.attrs["inverse"]):
        parts = bb.emit(relax.op.split(wide, [dim], axis=-1))
        first, sums = (bb.emit(relax.TupleGetItem(parts, i)) for i in range(2))
        result = bb.emit(relax.op.add(first, bb.emit(relax.op.matmul(sums, relax.const(rows)))))
    else:
        columns = relax.const(np.ascontiguousarray(rows.T))
        result = bb.emit(relax.op.concat([wide, bb.emit(relax.op.matmul(wide, columns))], axis=-1))
    return cast(bb, result, dtype_of(x.ty))


OP = define_op("sketch", "Appends the projections of a sign sketch, or adds them back.", ("x",), _infer, _legalize)


def sketch(x: relax.Expr, *, scheme: str, head_dim: int, seed: int = 0, inverse: bool = False) -> relax.Call:
    """x [..., D] → [..., D + m] with S·x behind x; `inverse`: y [..., D + m] → y[:D] + Sᵀ·y[D:].

    S [m, D] is the sketch matrix of `scheme` (`tqc.codec.sketch`; QJL, arXiv:2406.03482); sums are taken in float32.
    Raises ValueError for a scheme without a sketch, TypeError for another last axis.
    """
    if not form(scheme, int(head_dim)).sketch_rows:
        raise ValueError(f"{scheme} has no sketch")
    return make_call(OP, [x], scheme=scheme, head_dim=int(head_dim), seed=int(seed), inverse=bool(inverse))
