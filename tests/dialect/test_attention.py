"""`tqc.attention` against softmax attention in NumPy."""

import numpy as np
import pytest
import tvm
from tvm import relax

from tqc.dialect import attention


def numpy_attention(q, k, v, past_k, past_v, sinks=None, *, scale, softcap=0.0, window=0):
    keys, values = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
    group = q.shape[1] // k.shape[1]
    scores = np.einsum("bhid,bhjd->bhij", q, keys.repeat(group, 1)) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    i = past_k.shape[2] + np.arange(q.shape[2])[:, None]
    j = np.arange(keys.shape[2])[None]
    visible = (j <= i) & ((j > i - window) if window else True)
    scores = np.where(visible, scores, -np.inf)
    sink = np.full(q.shape[1], -np.inf) if sinks is None else sinks
    sink = sink[:, None, None] + np.zeros_like(scores[..., :1])
    top = np.maximum(scores.max(-1, keepdims=True), sink)
    weights = np.exp(scores - top)
    weights /= weights.sum(-1, keepdims=True) + np.exp(sink - top)
    return np.einsum("bhij,bhjd->bhid", weights, values.repeat(group, 1)), keys, values


@pytest.mark.parametrize(("softcap", "window", "sinks"), [(0.0, 0, False), (5.0, 4, False), (0.0, 4, True)])
def test_legalized_attention_is_softmax_attention(softcap, window, sinks):
    batch, past, new = tvm.tirx.Var("batch", "int64"), tvm.tirx.Var("past", "int64"), tvm.tirx.Var("new", "int64")
    shapes = {"q": (batch, 4, new, 16), "k": (batch, 2, new, 16), "v": (batch, 2, new, 16)}
    shapes |= {"past_k": (batch, 2, past, 16), "past_v": (batch, 2, past, 16)} | ({"sinks": (4,)} if sinks else {})
    options = {"scale": 0.25, "softcap": softcap, "window": window}
    params = [relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()]
    bb = relax.BlockBuilder()
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(attention(*params, **options, layer=0)))
        bb.emit_func_output(out)
    module = relax.transform.LegalizeOps()(bb.get())
    vm = relax.VirtualMachine(relax.build(module, tvm.target.Target("llvm")), tvm.cpu())
    rng = np.random.default_rng(0)
    for b, p, s in ((2, 3, 5), (1, 0, 7), (1, 9, 1)):
        sizes = [(b, 4, s, 16), (b, 2, s, 16), (b, 2, s, 16), (b, 2, p, 16), (b, 2, p, 16), *([(4,)] if sinks else [])]
        arrays = [rng.standard_normal(size).astype("float32") for size in sizes]
        got = vm["main"](*(tvm.runtime.tensor(a) for a in arrays))
        for ours, truth in zip(got, numpy_attention(*arrays, **options), strict=True):
            np.testing.assert_allclose(ours.numpy(), truth, atol=2e-5)


def test_one_sink_logit_per_query_head():
    shapes = [(1, 4, 1, 16), (1, 2, 1, 16), (1, 2, 1, 16), (1, 2, 3, 16), (1, 2, 3, 16)]
    operands = [relax.Var("x", relax.TensorType(shape, "float32")) for shape in shapes]
    for wrong in ((2,), (4, 1)):
        sinks = relax.Var("sinks", relax.TensorType(wrong, "float32"))
        with pytest.raises(Exception, match="sinks"):
            relax.BlockBuilder().normalize(attention(*operands, sinks, scale=1.0))
