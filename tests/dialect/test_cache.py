"""Cache ops carry their layout and take the type of the state."""

from dataclasses import replace

import pytest
import tvm
from tvm import relax

from tqc.codec.layout import CacheLayout
from tqc.dialect import cache_append, cached_attention, layout_of
from tqc.dialect.cache import sink_logits_of, with_layout

LAYOUT = CacheLayout(4, 2, 32, "tq4", "tq3", sinks=0, recent=64, page=32)


def variables(layout):
    batch, seq = tvm.tirx.Var("batch", "int64"), tvm.tirx.Var("seq", "int64")
    sizes = {"batch": batch, "pages": tvm.tirx.Var("pages", "int64")}
    counts = [relax.Var(name, relax.TensorType((batch,), "int32")) for name in ("length", "new_len")]
    table = relax.Var("page_table", relax.TensorType((batch, 8), "int32"))
    state = [
        relax.Var(spec.name, relax.TensorType([sizes.get(dim, dim) for dim in spec.shape], spec.dtype))
        for spec in layout.tensors()
    ]
    q, k = (relax.Var(n, relax.TensorType((batch, heads, seq, 32), "float32")) for n, heads in (("q", 4), ("k", 2)))
    return q, k, [*counts, table], relax.Tuple(state)


def test_an_append_returns_the_state_and_remembers_the_layout():
    _, k, counts, state = variables(LAYOUT)
    call = relax.BlockBuilder().normalize(cache_append(k, k, *counts, state, layout=LAYOUT, layer=3))
    assert [str(field.dtype) for field in call.ty.fields] == [spec.dtype for spec in LAYOUT.tensors()]
    assert layout_of(call) == LAYOUT
    assert int(call.attrs["layer"]) == 3


def test_sink_logits_are_an_operand_of_their_own():
    q, k, counts, state = variables(LAYOUT)
    options = {"layout": LAYOUT, "scale": 0.5, "softcap": 0.0, "window": 0, "layer": 1}
    logits = relax.Var("logits", relax.TensorType((4,), "float32"))
    assert sink_logits_of(cached_attention(q, None, *counts, state, **options)) is None
    call = cached_attention(q, (k, k), *counts, state, logits, **options)
    assert sink_logits_of(call).same_as(logits)
    assert relax.BlockBuilder().normalize(call).ty.shape[1] == 4
    wrong = relax.Var("logits", relax.TensorType((2,), "float32"))
    with pytest.raises(Exception, match="sinks"):
        relax.BlockBuilder().normalize(cached_attention(q, None, *counts, state, wrong, **options))


def test_an_attention_has_the_type_of_q_and_takes_another_layout():
    q, k, counts, state = variables(LAYOUT)
    options = {"scale": 0.5, "softcap": 0.0, "window": 7, "layer": 1}
    call = cached_attention(q, (k, k), *counts, state, layout=LAYOUT, **options)
    assert relax.BlockBuilder().normalize(call).ty.shape[1] == 4
    changed = with_layout(call, replace(LAYOUT, k="tq2"), list(call.args))
    assert layout_of(changed) == replace(LAYOUT, k="tq2")
    assert int(changed.attrs["window"]) == 7


def test_sketches_lengthen_queries_and_outputs():
    layout = replace(LAYOUT, k="tqp3", v="tqp2")
    q, k, counts, state = variables(layout)
    options = {"layout": layout, "scale": 0.5, "softcap": 0.0, "window": 0, "layer": 0}
    with pytest.raises(Exception, match="must have 64 numbers"):
        relax.BlockBuilder().normalize(cached_attention(q, (k, k), *counts, state, **options))
    wide = relax.Var("q", relax.TensorType((*list(q.ty.shape)[:3], 64), "float32"))
    call = relax.BlockBuilder().normalize(cached_attention(wide, (k, k), *counts, state, **options))
    assert int(call.ty.shape[3]) == 64
