"""Past and present tensors become a paged cache."""

import pytest
import tvm
from outline import outline
from toy import toy_module
from tvm import relax

from tqc.errors import PassError
from tqc.passes.attach_cache import AttachCache

STATE = "(layer0_sink_k, layer0_sink_v, layer0_tail_k, layer0_tail_v, layer0_k_codes, layer0_v_codes)"
COUNTS = "length, new_len, page_table"


def test_before():
    assert outline(toy_module()["main"], only="tqc.attention") == [
        "%14 = tqc.attention(%6, %10, %13, past_key_0, past_value_0) {layer=0}"
    ]


def test_decode_appends_and_then_attends_over_the_cache():
    decode = AttachCache()(toy_module())["decode"]
    assert outline(decode, only="tqc.")[0] == "%0 = tqc.positions(length, input_ids)"
    assert outline(decode, only="tqc.cache") == [
        f"%15 = tqc.cache_append(%11, %14, {COUNTS}, {STATE}) {{k=fp32, v=fp32, layer=0}}",
        f"%16 = tqc.cached_attention(%7, (), {COUNTS}, %15) {{k=fp32, v=fp32, layer=0}}",
    ]
    assert outline(decode)[-1] == "%22 = (%21, %15)"
    assert int(decode.params[0].ty.shape[1]) == 1


def test_prefill_attends_to_the_fresh_chunk_and_then_appends():
    prefill = AttachCache()(toy_module())["prefill"]
    assert outline(prefill, only="tqc.cache") == [
        f"%15 = tqc.cached_attention(%7, (%11, %14), {COUNTS}, {STATE}) {{k=fp32, v=fp32, layer=0}}",
        f"%16 = tqc.cache_append(%11, %14, {COUNTS}, {STATE}) {{k=fp32, v=fp32, layer=0}}",
    ]


def test_the_past_leaves_the_interface_and_the_state_enters_it():
    module = AttachCache(sinks=0, recent=64, page=32)(toy_module())
    assert relax.analysis.well_formed(module) is not False
    for gv, func in module.functions_items():
        names = [var.name for var in func.params[: int(func.attrs["num_input"])]]
        assert gv.name_hint in ("decode", "prefill", "prefill_all")
        assert names[:4] == ["input_ids", "length", "new_len", "page_table"]
        assert names[4:] == ["layer0_tail_k", "layer0_tail_v", "layer0_k_codes", "layer0_v_codes"]


def test_reject_a_module_without_attention():
    x = relax.Var("input_ids", relax.TensorType((1, tvm.tirx.Var("seq", "int64")), "int64"))
    pos = relax.Var("positions", x.ty)
    bb = relax.BlockBuilder()
    with bb.function("main", [x, pos], attrs={"num_input": 2, "global_symbol": "main"}):
        with bb.dataflow():
            out = bb.emit_output(relax.Tuple([bb.emit(relax.op.add(x, pos))]))
        bb.emit_func_output(out)
    with pytest.raises(PassError, match="no attention"):
        AttachCache().apply(bb.get())


@pytest.mark.parametrize(("recent", "ring"), [(16, 3), (0, 5), (128, 1)])
def test_a_window_keeps_a_ring_of_pages(recent, ring):
    module = AttachCache(recent=recent, page=16)(toy_module(window=60))
    for name in ("decode", "prefill"):
        shapes = {
            var.name: [getattr(dim, "name", dim) for dim in var.ty.shape]
            for var in module[name].params
            if "codes" in var.name
        }
        assert shapes == {f"layer0_{side}_codes": ["batch", f"ring{ring}", 1, 256] for side in "kv"}
    everything = AttachCache()(toy_module())["decode"].params
    assert [str(var.ty.shape[0]) for var in everything if "codes" in var.name] == ["pages", "pages"]
