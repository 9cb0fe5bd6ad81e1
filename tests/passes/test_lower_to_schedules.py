"""Dialect ops become kernel calls."""

import pytest
from cpu_kernels import cpu_schedules
from outline import outline
from toy import toy_module
from tvm import relax

from tqc.dialect import kv_quantize
from tqc.dialect.registry import dtype_of
from tqc.passes.attach_cache import AttachCache
from tqc.passes.lower_to_schedules import LowerToSchedules
from tqc.passes.quantize_cache import QuantizeCache


def lowered(records=None, toy=None, **schemes):
    module = QuantizeCache(**schemes)(AttachCache(sinks=0)(toy_module(**(toy or {}))))
    return LowerToSchedules(schedules=cpu_schedules(), records=[] if records is None else records)(module)


def kernel_calls(func) -> list[tuple[str, str, int]]:
    """(op, kernel, arguments) of every kernel call, in order."""
    calls = [b.value for block in func.body.blocks for b in block.bindings if isinstance(b.value, relax.Call)]
    return [
        (call.op.name, call.args[0].name_hint, len(call.args[1].fields))
        for call in calls
        if call.op.name.startswith("relax.call_tir")
    ]


def test_decode_appends_in_place_and_attends():
    decode = lowered()["decode"]
    assert kernel_calls(decode) == [("relax.call_tir_inplace", "tqc_append", 11), ("relax.call_tir", "tqc_decode", 10)]
    assert not any("tqc.cache" in line for line in outline(decode))


def test_the_state_is_what_is_written_in_place():
    decode = lowered()["decode"]
    call = next(
        b.value
        for block in decode.body.blocks
        for b in block.bindings
        if isinstance(b.value, relax.Call) and b.value.op.name == "relax.call_tir_inplace"
    )
    written = [call.args[1].fields[int(i)] for i in call.attrs.inplace_indices]
    assert [var.name for var in written] == [
        f"layer0_{name}" for name in ("tail_k", "tail_v", "k_codes", "k_scale", "v_codes", "v_scale")
    ]


def test_functions_share_a_kernel_and_it_is_recorded():
    records = []
    module = lowered(records)
    assert {kernel for name in ("prefill", "prefill_all") for _, kernel, _ in kernel_calls(module[name])} == {
        "tqc_append",
        "tqc_prefill",
    }
    assert sorted(record.schedule for record in records) == ["append", "decode", "prefill"]
    prefill = next(record for record in records if record.schedule == "prefill")
    assert prefill.config["k"] == "tq4"
    assert prefill.config["softmax_scale"] == 0.25
    assert prefill.config["isa"] == "portable"


def test_an_op_without_a_schedule_is_left_to_tvm():
    assert any("tqc.rope" in line for line in outline(lowered()["decode"]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sink_logits_reach_the_attention_kernels(dtype):
    """As float32, behind the chunk's vectors; append does not know them."""
    records = []
    module = lowered(records, toy={"sinks": True, "dtype": dtype})
    assert [count for _, _, count in kernel_calls(module["decode"])] == [11, 11]
    assert [count for _, _, count in kernel_calls(module["prefill"])] == [13, 11]
    assert {r.schedule: r.config.get("sink_logits") for r in records} == {
        "append": None,
        "decode": True,
        "prefill": True,
    }
    for name, position in (("decode", 1), ("prefill", 3)):
        call = next(
            b.value
            for block in module[name].body.blocks
            for b in block.bindings
            if isinstance(b.value, relax.Call) and b.value.op.name == "relax.call_tir"
        )
        logits = call.args[1].fields[position]
        assert [int(dim) for dim in logits.ty.shape] == [2]
        assert dtype_of(logits.ty) == "float32"


def test_vectors_through_their_codes_are_written_out():
    """The rotations around the codes are products that the layout of weights can take."""
    x = relax.Var("x", relax.TensorType((3, 16), "float32"))
    bb = relax.BlockBuilder()
    with bb.function("forward", [x], attrs={"num_input": 1, "num_state": 0}):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(kv_quantize(x, scheme="tq4", seed=2)))
        bb.emit_func_output(out)
    lines = outline(LowerToSchedules(schedules=cpu_schedules())(bb.get())["forward"])
    assert [line.split(" = ")[1].split("(")[0] for line in lines] == ["tqc.rotate", "tqc.kv_codes", "tqc.rotate"]
