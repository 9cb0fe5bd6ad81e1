"""A decoder layer small enough to read in the IR, as the frontend would import it."""

import tvm
from tvm import relax, tirx

from tqc.dialect import attention, matmul_nbits, rope

HEADS, KV_HEADS, DIM, HIDDEN, VOCAB = 2, 1, 16, 32, 48


def toy_module(
    *,
    bias: bool = False,
    dtype: str = "float32",
    softcap: float = 0.0,
    logit_cap: float = 0.0,
    views: bool = False,
    quantized_head: bool = False,
    sinks: bool = False,
    window: int = 0,
) -> tvm.IRModule:
    """`main(input_ids, positions, past_key_0, past_value_0, weights…) → (logits, present_key_0, present_value_0)`."""
    batch, seq, past = (tirx.Var(name, "int64") for name in ("batch", "seq", "past"))
    cache = (batch, KV_HEADS, past, DIM)
    shapes = {
        "embedding": (VOCAB, HIDDEN),
        "wq": (HIDDEN, HEADS * DIM),
        "wk": (HIDDEN, KV_HEADS * DIM),
        "wv": (HIDDEN, KV_HEADS * DIM),
        "wo": (HEADS * DIM, HIDDEN),
        "lm_head": (HIDDEN, VOCAB),
    }
    if bias:
        shapes["bv"] = (KV_HEADS * DIM,)
    if sinks:
        shapes["sinks"] = (HEADS,)
    ids, pos = (relax.Var(name, relax.TensorType((batch, seq), "int64")) for name in ("input_ids", "positions"))
    past_k, past_v = (relax.Var(name, relax.TensorType(cache, dtype)) for name in ("past_key_0", "past_value_0"))
    w = {name: relax.Var(name, relax.TensorType(shape, dtype)) for name, shape in shapes.items()}
    if quantized_head:
        w["lm_head"] = relax.Var("lm_head", relax.TensorType((VOCAB, 1, HIDDEN // 2), "uint8"))
        w["lm_scales"] = relax.Var("lm_scales", relax.TensorType((VOCAB, 1), dtype))
    inv_freq = relax.const([10000.0 ** (-i / 8) for i in range(8)], "float32")
    op = relax.op
    bb = relax.BlockBuilder()
    with bb.function("main", [ids, pos, past_k, past_v, *w.values()], attrs={"num_input": 4, "global_symbol": "main"}):
        with bb.dataflow():
            flat = bb.emit(op.reshape(ids, (batch * seq,)))
            x = bb.emit(op.reshape(bb.emit(op.take(w["embedding"], flat, axis=0)), (batch, seq, HIDDEN)))

            def heads(weight, n, bias_name=None):
                y = bb.emit(op.matmul(x, w[weight]))
                if bias_name:
                    y = bb.emit(op.add(y, w[bias_name]))
                split = bb.emit(op.reshape(y, (batch, seq, n, DIM)))
                return bb.emit(op.permute_dims(split, [0, 2, 1, 3]))

            q = bb.emit(rope(heads("wq", HEADS), pos, inv_freq))
            k = bb.emit(rope(heads("wk", KV_HEADS), pos, inv_freq))
            v = heads("wv", KV_HEADS, "bv" if bias else None)
            if views:
                v = bb.emit(op.reshape(v, (batch, KV_HEADS, seq, DIM)))
            options = {"scale": DIM**-0.5, "softcap": softcap, "window": window, "layer": 0}
            out = bb.emit(attention(q, k, v, past_k, past_v, w.get("sinks"), **options))
            y, pk, pv = (bb.emit(relax.TupleGetItem(out, i)) for i in range(3))
            if views:  # as TorchScript leaves them: reshapes to the shape the tensor has
                y = bb.emit(op.reshape(y, (batch, HEADS, seq, DIM)))
            merged = bb.emit(op.reshape(bb.emit(op.permute_dims(y, [0, 2, 1, 3])), (batch, seq, HEADS * DIM)))
            x = bb.emit(op.add(x, bb.emit(op.matmul(merged, w["wo"]))))
            if quantized_head:
                head = matmul_nbits(x, w["lm_head"], w["lm_scales"], bits=4, block=32, k=HIDDEN, n=VOCAB)
            else:
                head = op.matmul(x, w["lm_head"])
            logits = bb.emit(head)
            if logit_cap:
                cap = relax.const(logit_cap, dtype)
                logits = bb.emit(op.multiply(bb.emit(op.tanh(bb.emit(op.divide(logits, cap)))), cap))
            result = bb.emit_output(relax.Tuple([logits, pk, pv]))
        bb.emit_func_output(result)
    return bb.get()
