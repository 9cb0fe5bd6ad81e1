"""`tqc.attention`: causal attention of q, k, v with past, the one form every exporter's graph becomes."""

from __future__ import annotations

import math

import tvm
from tvm import relax, te, tirx

from .registry import cast, define_op, dtype_of, make_call, tensor_type

_OPERANDS = ("q", "k", "v", "past_k", "past_v")


def sinks_of(call: relax.Call) -> relax.Expr | None:
    """The sink logits of a `tqc.attention`, if it has any."""
    return call.args[len(_OPERANDS)] if len(call.args) > len(_OPERANDS) else None


def check_sinks(sinks: relax.Expr, q: relax.TensorType) -> None:
    """TypeError unless `sinks` is [H] for queries [B, H, S, D]."""
    (heads,) = tensor_type(sinks, "sinks", 1).shape
    if int(heads) != int(q.shape[1]):
        raise TypeError(f"sinks must hold one logit for each of {q.shape[1]} query heads, found {heads}")


def _infer(call: relax.Call) -> relax.TupleType:
    q, k, v, past_k, past_v = (
        tensor_type(arg, name, 4) for arg, name in zip(call.args[: len(_OPERANDS)], _OPERANDS, strict=True)
    )
    if (sinks := sinks_of(call)) is not None:
        check_sinks(sinks, q)
    presents = []
    for fresh, past in ((k, past_k), (v, past_v)):
        batch, heads, new, dim = fresh.shape
        presents.append(relax.TensorType((batch, heads, past.shape[2] + new, dim), dtype_of(past)))
    return relax.TupleType([relax.TensorType(q.shape, dtype_of(q)), *presents])


def scaled_scores(q_heads: int, kv_heads: int, scale: float, softcap: float, window: int):
    """Builds the te function (q, k, past) → masked scores [B, H, S, T] in float32."""

    def compute(q: te.Tensor, k: te.Tensor, past: tirx.Expr) -> te.Tensor:
        batch, _, new, dim = q.shape
        d = te.reduce_axis((0, dim), "d")
        raw = te.compute(
            (batch, q_heads, new, k.shape[2]),
            lambda b, h, i, j: te.sum(
                q[b, h, i, d].astype("float32") * k[b, h // (q_heads // kv_heads), j, d].astype("float32"), axis=d
            ),
            name="scores",
        )

        def mask(b, h, i, j):
            score = raw[b, h, i, j] * tirx.const(scale, "float32")
            if softcap:
                score = te.tanh(score / tirx.const(softcap, "float32")) * tirx.const(softcap, "float32")
            visible = j <= past + i
            if window:
                visible = tirx.all(visible, j > past + i - window)
            return tirx.if_then_else(visible, score, tirx.const(-3.0e38, "float32"))

        return te.compute(raw.shape, mask, name="masked")

    return compute


def _legalize(bb: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Concatenates past and fresh keys and values and runs plain softmax attention: the definition, not a kernel."""
    q, k, v, past_k, past_v = call.args[: len(_OPERANDS)]
    attrs = call.attrs
    q_heads, kv_heads = int(q.ty.shape[1]), int(k.ty.shape[1])
    past, out_dtype = past_k.ty.shape[2], dtype_of(q.ty)
    present_k = bb.emit(relax.op.concat([past_k, cast(bb, k, dtype_of(past_k.ty))], axis=2))
    present_v = bb.emit(relax.op.concat([past_v, cast(bb, v, dtype_of(past_v.ty))], axis=2))
    compute = scaled_scores(q_heads, kv_heads, float(attrs["scale"]), float(attrs["softcap"]), int(attrs["window"]))
    scores = bb.emit_te(compute, q, present_k, past, primfunc_name_hint="attention_scores")
    if (sinks := sinks_of(call)) is not None:  # one more column of scores, which has no value
        column = bb.emit(relax.op.reshape(cast(bb, sinks, "float32"), (1, q_heads, 1, 1)))
        column = bb.emit(relax.op.broadcast_to(column, (*list(q.ty.shape)[:3], 1)))
        scores = bb.emit(relax.op.concat([scores, column], axis=3))
    weights = bb.emit(relax.op.nn.softmax(scores, axis=-1))

    def mix(p: te.Tensor, values: te.Tensor) -> te.Tensor:
        t = te.reduce_axis((0, values.shape[2]), "t")
        return te.compute(
            (*p.shape[:3], values.shape[3]),
            lambda b, h, i, d: te.sum(
                p[b, h, i, t] * values[b, h // (q_heads // kv_heads), t, d].astype("float32"), axis=t
            ),
            name="mix",
        )

    y = bb.emit_te(mix, weights, present_v, primfunc_name_hint="attention_values")
    return relax.Tuple([cast(bb, y, out_dtype), present_k, present_v])


OP: tvm.ir.Op = define_op(
    "attention",
    "Causal attention with past; returns y and the extended keys and values.",
    (*_OPERANDS, "sinks"),
    _infer,
    _legalize,
)


def attention(
    q: relax.Expr,
    k: relax.Expr,
    v: relax.Expr,
    past_k: relax.Expr,
    past_v: relax.Expr,
    sinks: relax.Expr | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    layer: int = 0,
) -> relax.Call:
    """`softmax(mask(cap(q·[past_k, k]ᵀ·scale)))·[past_v, v]`, with query i of the chunk at position P + i.

    q is [B, H, S, D]; k and v [B, Hk, S, D]; past_k and past_v [B, Hk, P, D], with H a multiple of Hk. `softcap` c > 0
    replaces a score s by c·tanh(s/c); `window` w > 0 hides positions ≤ P + i − w. Returns the tuple (y [B, H, S, D],
    present_k, present_v [B, Hk, P + S, D]). Scores and softmax are computed in float32.

    `sinks` [H] holds a logit per query head that joins the softmax as a token without a value would (gpt-oss):
    y = Σ exp(s_j) v_j / (Σ exp(s_j) + exp(sink)). Neither scale nor softcap apply to it.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, found {scale}")
    operands = [q, k, v, past_k, past_v] + ([] if sinks is None else [sinks])
    return make_call(OP, operands, scale=float(scale), softcap=float(softcap), window=int(window), layer=int(layer))
