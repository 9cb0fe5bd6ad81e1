"""`tqc.change_basis`: every head's vectors times a matrix of the KV head it belongs to."""

from __future__ import annotations

from tvm import relax

from .registry import cast, define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x, matrix = tensor_type(call.args[0], "x", 4), tensor_type(call.args[1], "matrix", 3)
    heads, dim = int(x.shape[1]), int(x.shape[3])
    kv_heads, *square = (int(extent) for extent in matrix.shape)
    if square != [dim, dim] or not kv_heads or heads % kv_heads:
        raise TypeError(f"matrix must be [divisor of {heads}, {dim}, {dim}] for x {x.shape}, found {matrix.shape}")
    return relax.TensorType(x.shape, dtype_of(x))


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """One product of a batch of KV heads: the query heads of a KV head lie one after another, so they are its rows."""
    x, matrix = call.args
    batch, heads, new, dim = x.ty.shape
    kv_heads = int(matrix.ty.shape[0])
    rows = bb.emit(relax.op.reshape(cast(bb, x, "float32"), (batch, kv_heads, int(heads) // kv_heads * new, dim)))
    product = bb.emit(relax.op.matmul(rows, cast(bb, matrix, "float32")))
    return cast(bb, bb.emit(relax.op.reshape(product, (batch, heads, new, dim))), dtype_of(x.ty))


OP = define_op("change_basis", "Multiplies every head by its KV head's matrix.", ("x", "matrix"), _infer, _legalize)


def change_basis(x: relax.Expr, matrix: relax.Expr) -> relax.Call:
    """x [B, H, S, D], matrix [Hk, D, D] → x·M_{h // (H/Hk)} for head h, in the type of x; summed in float32.

    Raises TypeError where H is not a multiple of Hk or the matrices are not D × D.
    """
    return make_call(OP, [x, matrix])
