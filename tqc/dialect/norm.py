"""`tqc.rms_norm`: x / sqrt(mean(x²) + ε) · weight over the last axis (Zhang & Sennrich 2019, eq. 4)."""

from __future__ import annotations

from tvm import relax, te, tirx

from .registry import define_op, dtype_of, make_call, tensor_type


def _infer(call: relax.Call) -> relax.TensorType:
    x = tensor_type(call.args[0], "x")
    return relax.TensorType(x.shape, dtype_of(x))


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    epsilon = float(call.attrs["epsilon"])

    def rms_norm(x: te.Tensor, weight: te.Tensor) -> te.Tensor:
        width = x.shape[-1]
        r = te.reduce_axis((0, width), "r")
        total = te.compute(
            x.shape[:-1],
            lambda *i: te.sum(x[(*i, r)].astype("float32") * x[(*i, r)].astype("float32"), axis=r),
            name="sum_of_squares",
        )

        def normalise(*i):
            mean = total[i[:-1]] / width.astype("float32")
            value = x[i].astype("float32") * te.rsqrt(mean + tirx.const(epsilon, "float32"))
            return (value * weight[i[-1]].astype("float32")).astype(x.dtype)

        return te.compute(x.shape, normalise, name="normalised")

    return bb.call_te(rms_norm, *call.args, primfunc_name_hint="rms_norm")


OP = define_op("rms_norm", "Root-mean-square norm over the last axis.", ("x", "weight"), _infer, _legalize)


def rms_norm(x: relax.Expr, weight: relax.Expr, *, epsilon: float) -> relax.Call:
    """x [..., hidden], weight [hidden] → the type of x; the mean is taken in float32."""
    return make_call(OP, [x, weight], epsilon=float(epsilon))
