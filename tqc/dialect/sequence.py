"""`tqc.positions` and `tqc.last_token`: where a chunk stands in its sequence."""

from __future__ import annotations

from tvm import relax, te, tirx

from .registry import define_op, dtype_of, make_call, tensor_type


def _infer_positions(call: relax.Call) -> relax.TensorType:
    return relax.TensorType(tensor_type(call.args[1], "input_ids", 2).shape, "int64")


def _legalize_positions(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def positions(length: te.Tensor, ids: te.Tensor) -> te.Tensor:
        return te.compute(ids.shape, lambda b, s: length[b].astype("int64") + s.astype("int64"), name="position")

    return bb.call_te(positions, *call.args, primfunc_name_hint="positions")


def _infer_last_token(call: relax.Call) -> relax.TensorType:
    hidden = tensor_type(call.args[0], "hidden", 3)
    return relax.TensorType((hidden.shape[0], 1, hidden.shape[2]), dtype_of(hidden))


def _legalize_last_token(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def last_token(hidden: te.Tensor, new_len: te.Tensor) -> te.Tensor:
        batch, _, width = hidden.shape
        return te.compute(
            (batch, 1, width),
            # A sequence that takes no part in the step has new_len 0; its row is never read.
            lambda b, s, i: hidden[b, te.max(new_len[b] - 1, tirx.const(0, "int32")).astype("int64"), i],
            name="last",
        )

    return bb.call_te(last_token, *call.args, primfunc_name_hint="last_token")


POSITIONS = define_op(
    "positions", "Position of every token of a chunk.", ("length", "input_ids"), _infer_positions, _legalize_positions
)
LAST_TOKEN = define_op(
    "last_token",
    "The row of the last valid token of each sequence.",
    ("hidden", "new_len"),
    _infer_last_token,
    _legalize_last_token,
)


def positions(length: relax.Expr, input_ids: relax.Expr) -> relax.Call:
    """length [B] int32, input_ids [B, S] → int64 [B, S] with `length[b] + s`."""
    return make_call(POSITIONS, [length, input_ids])


def last_token(hidden: relax.Expr, new_len: relax.Expr) -> relax.Call:
    """hidden [B, S, C], new_len [B] int32 → [B, 1, C] with row `new_len[b] − 1` of each sequence."""
    return make_call(LAST_TOKEN, [hidden, new_len])
