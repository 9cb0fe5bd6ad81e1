"""`tqc.rope`: rotary position embedding of whole heads (Su et al. 2021, eq. 34).

The two numbers that are turned together lie half a head apart (Llama's layout), or side by side (`interleaved`).
"""

from __future__ import annotations

from tvm import relax, te, tirx

from .registry import define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x", 4)
    return relax.TensorType(x.shape, dtype_of(x))


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    scaling = float(call.attrs["scaling"])
    interleaved = bool(call.attrs["interleaved"])

    def rope(x: te.Tensor, positions: te.Tensor, inv_freq: te.Tensor) -> te.Tensor:
        half = x.shape[3] // 2

        def rotated(b, h, s, d):
            pair, first, partner = (
                (d // 2, d % 2 == 0, d + 1 - 2 * (d % 2))
                if interleaved
                else (d % half, d < half, (d + half) % (2 * half))
            )
            angle = positions[b, s].astype("float32") * inv_freq[pair]
            sign = tirx.if_then_else(first, tirx.const(-1, "float32"), tirx.const(1, "float32"))
            other = sign * x[b, h, s, partner].astype("float32")
            value = x[b, h, s, d].astype("float32") * te.cos(angle) + other * te.sin(angle)
            return (value * tirx.const(scaling, "float32")).astype(x.dtype)

        return te.compute(x.shape, rotated, name="rope")

    return bb.call_te(rope, *call.args, primfunc_name_hint="rope")


OP = define_op("rope", "Rotary position embedding of whole heads.", ("x", "positions", "inv_freq"), _infer, _legalize)


def rope(
    x: relax.Expr, positions: relax.Expr, inv_freq: relax.Expr, *, scaling: float = 1.0, interleaved: bool = False
) -> relax.Call:
    """x [B, heads, S, D], positions [B, S] int64, inv_freq [D/2] float32 → the type of x.

    `(x·cos + rotated(x)·sin)·scaling` with angle `positions·inv_freq` in float32; rotated(x) is (-x₁, x₀) for every
    pair of numbers (x₀, x₁).
    """
    return make_call(OP, [x, positions, inv_freq], scaling=float(scaling), interleaved=bool(interleaved))
