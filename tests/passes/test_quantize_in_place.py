"""Keys and values of attention in plain Relax pass through their codes, as early as their vectors are whole."""

from __future__ import annotations

import pytest
from outline import outline
from tvm import relax, tirx

from tqc.dialect import is_op_call
from tqc.errors import CodecError, PassError
from tqc.passes.quantize_in_place import QuantizeInPlace, find_attention


def attention(dim=16, group=2, scores=1, weights_meet=True):
    """q, k and v [batch, heads, seq, dim] as parameters; k and v are repeated over `group` query heads, k is scaled."""
    batch, seq = tirx.Var("batch", "int64"), tirx.Var("seq", "int64")
    bb = relax.BlockBuilder()
    q, k, v = (
        relax.Var(name, relax.TensorType([batch, heads, seq, dim], "float32"))
        for name, heads in (("q", 2 * group), ("k", 2), ("v", 2))
    )
    op = relax.op

    def repeat(x):
        wide = bb.emit(op.broadcast_to(bb.emit(op.expand_dims(x, 2)), [batch, 2, group, seq, dim]))
        return bb.emit(op.reshape(wide, [batch, 2 * group, seq, dim]))

    with bb.function("forward", [q, k, v], attrs={"num_input": 3, "num_state": 0}):
        with bb.dataflow():
            fresh_k, fresh_v = bb.emit(op.negative(k), "fresh_k"), bb.emit(op.negative(v), "fresh_v")
            keys = bb.emit(op.multiply(bb.emit(op.permute_dims(repeat(fresh_k), [0, 1, 3, 2])), relax.const(0.5)))
            products = [bb.emit(op.matmul(q, keys)) for _ in range(scores)]
            total = products[0] if scores == 1 else bb.emit(op.add(*products))
            p = bb.emit(op.nn.softmax(total))
            y = bb.emit(op.matmul(p, repeat(fresh_v))) if weights_meet else bb.emit(op.negative(p))
            out = bb.emit_output(relax.Tuple([y]))
        bb.emit_func_output(out)
    return bb.get()


def test_vectors_are_coded_before_they_are_repeated_and_scaled():
    mod = QuantizeInPlace(("tq4", "tq3")).apply(attention())
    values = {b.var: b.value for block in mod["forward"].body.blocks for b in block.bindings}
    coded = [value for value in values.values() if is_op_call(value, "kv_quantize")]
    found = [(values[value.args[0]].op.name, str(value.attrs["scheme"])) for value in coded]
    assert found == [("relax.negative", "tq4"), ("relax.negative", "tq3")]


def test_the_rest_stays_as_it_is():
    def operations(mod):
        return [line.split(" = ")[1].split("(")[0] for line in outline(mod["forward"]) if " = " in line]

    before, after = operations(attention()), operations(QuantizeInPlace().apply(attention()))
    assert [op for op in after if op != "tqc.kv_quantize"] == before
    assert len(after) == len(before) + 2


def test_finds_one_attention_a_softmax():
    (found,) = find_attention(attention()["forward"])
    assert (found.k.head_dim, found.v.head_dim) == (16, 16)


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"scores": 2}, PassError, "several products"),
        ({"weights_meet": False}, PassError, "meet no values"),
        ({"dim": 20}, CodecError, "head_dim"),
    ],
)
def test_rejects_what_it_does_not_understand(options, error, what):
    with pytest.raises(error, match=what):
        QuantizeInPlace().apply(attention(**options))


def test_rejects_a_module_without_attention():
    x = relax.Var("x", relax.TensorType([4], "float32"))
    bb = relax.BlockBuilder()
    with bb.function("forward", [x], attrs={"num_input": 1}):
        with bb.dataflow():
            out = bb.emit_output(relax.Tuple([bb.emit(relax.op.nn.softmax(x))]))
        bb.emit_func_output(out)
    with pytest.raises(PassError, match="No attention"):
        QuantizeInPlace().apply(bb.get())


def operations(mod, *names):
    values = [binding.value for block in mod["forward"].body.blocks for binding in block.bindings]
    return [name for value in values for name in names if is_op_call(value, name)]


def test_the_signs_of_a_sketch_stand_in_the_module():
    mod = QuantizeInPlace(("qjl2", "tqp3")).apply(attention())
    names = ("rotate", "kv_codes", "sign_sketch", "sign_values", "sketch", "kv_quantize")
    assert operations(mod, *names) == [
        *("kv_codes", "sign_sketch", "sign_values", "sketch"),
        *("rotate", "kv_codes", "sign_sketch", "sign_values", "sketch", "rotate"),
    ]
    relax.transform.LegalizeOps()(mod)


def test_a_plan_gives_an_attention_its_own_schemes():
    mod = QuantizeInPlace(("tq4", "tq4"), {0: ("polar", "tq2")}, seed=5, rounds=2).apply(attention())
    values = [binding.value for block in mod["forward"].body.blocks for binding in block.bindings]
    coded = [value.attrs for value in values if is_op_call(value, "kv_quantize")]
    assert [(a["scheme"], int(a["seed"]), int(a["rounds"])) for a in coded] == [("polar", 5, 2), ("tq2", 5, 2)]
    with pytest.raises(PassError, match="layers \\[1\\]"):
        QuantizeInPlace(plan={1: ("tq4", "tq4")}).apply(attention())


def test_rejects_schemes_that_need_a_measured_basis():
    with pytest.raises(CodecError, match="needs a basis"):
        QuantizeInPlace(("tq2.5", "tq4")).apply(attention(dim=32))
