"""Schemes are set and rotations appear around the cache."""

import numpy as np
import pytest
from outline import outline
from toy import toy_module

from tqc.dialect import is_op_call
from tqc.errors import PassError
from tqc.passes.attach_cache import AttachCache
from tqc.passes.bases import Bases
from tqc.passes.quantize_cache import QuantizeCache

COUNTS = "length, new_len, page_table"
OPS = ("cache_append", "cached_attention", "rotate", "change_basis", "sketch")


def cache_lines(phase: str, **options) -> list[str]:
    module = QuantizeCache(**options)(AttachCache(sinks=0)(toy_module()))
    return [line for line in outline(module[phase]) if any(op in line for op in OPS)]


def test_decode_rotates_queries_keys_values_and_the_output():
    state = "(layer0_tail_k, layer0_tail_v, layer0_k_codes, layer0_k_scale, layer0_v_codes, layer0_v_scale)"
    assert cache_lines("decode") == [
        "%15 = tqc.rotate(%11) {inverse=False}",
        "%16 = tqc.rotate(%14) {inverse=False}",
        f"%17 = tqc.cache_append(%15, %16, {COUNTS}, {state}) {{k=tq4, v=tq4, layer=0}}",
        "%18 = tqc.rotate(%7) {inverse=False}",
        f"%19 = tqc.cached_attention(%18, (), {COUNTS}, %17) {{k=tq4, v=tq4, layer=0}}",
        "%20 = tqc.rotate(%19) {inverse=True}",
    ]


def test_prefill_rotates_each_fresh_key_and_value_once():
    lines = cache_lines("prefill")
    assert sum("rotate" in line for line in lines) == 4
    assert [line.split(" = ")[1].split("(")[0] for line in lines if "cache" in line] == [
        "tqc.cached_attention",
        "tqc.cache_append",
    ]


def test_an_exact_side_is_not_rotated():
    lines = cache_lines("decode", default=("fp32", "tq2"))
    assert [line.split(" = ")[1] for line in lines if "rotate" in line] == [
        "tqc.rotate(%14) {inverse=False}",
        "tqc.rotate(%17) {inverse=True}",
    ]
    assert not any("rotate" in line for line in cache_lines("decode", default=("fp32", "fp16")))


def test_reject_a_plan_for_a_layer_that_does_not_exist():
    with pytest.raises(PassError, match="layers \\[7\\]"):
        QuantizeCache(plan={7: ("tq2", "tq2")}).apply(AttachCache()(toy_module()))


def bases(*, dim=16, orthogonal=False):
    rng = np.random.default_rng(0)
    made = rng.standard_normal((1, dim, dim))
    made = (np.linalg.qr(made)[0] if orthogonal else np.eye(dim) + 0.1 * made).astype("float32")
    inverse = np.linalg.inv(made).astype("float32")
    return Bases(made, made if orthogonal else inverse.swapaxes(1, 2), made, inverse)


def operations(phase, **options):
    return [line.split(" = ")[1] for line in cache_lines(phase, **options)]


@pytest.mark.parametrize("scheme", ["16@3", "tq4"])
def test_matrices_become_parameters_and_replace_the_rotation(scheme):
    lines = operations("decode", default=(scheme, scheme), bases={0: bases()})
    assert not any("rotate" in line for line in lines)
    used = [line.split(", ")[1].rstrip(") {}") for line in lines if "change_basis" in line]
    assert used == [f"layer0.{name}_basis" for name in ("key", "value", "query", "output")]
    module = QuantizeCache((scheme, scheme), bases={0: bases()})(AttachCache()(toy_module()))
    for name in ("decode", "prefill", "prefill_all"):
        names = [var.name for var in module[name].params][-4:]
        assert names == [f"layer0.{name}_basis" for name in ("key", "query", "value", "output")]


def test_an_orthogonal_basis_of_keys_serves_queries_too():
    lines = operations("decode", default=("16@3", "fp16"), bases={0: bases(orthogonal=True)})
    assert [line.split(", ")[1] for line in lines if "change_basis" in line] == ["layer0.key_basis)"] * 2
    assert not any("value_basis" in line or "rotate" in line for line in lines)


def test_a_sketch_stands_behind_queries_and_before_the_inverse_basis():
    lines = [line.split("(")[0] for line in operations("decode", default=("tqp3", "tqp2"))]
    assert lines == [
        *("tqc.rotate", "tqc.rotate", "tqc.cache_append", "tqc.rotate", "tqc.sketch"),
        *("tqc.cached_attention", "tqc.sketch", "tqc.rotate"),
    ]
    plain = [line.split("(")[0] for line in operations("prefill", default=("qjl2", "fp16"))]
    assert plain == ["tqc.sketch", "tqc.cached_attention", "tqc.cache_append"]


def test_the_sketch_has_the_rows_of_its_side():
    module = QuantizeCache(("qjl2", "tqp3"))(AttachCache()(toy_module()))
    values = [b.value for block in module["decode"].body.blocks for b in block.bindings]
    (call,) = (value for value in values if is_op_call(value, "cached_attention"))
    assert (int(call.args[0].ty.shape[3]), int(call.ty.shape[3])) == (48, 32)


def test_every_layer_has_its_own_schemes():
    plan = {0: ("tq8", "tq2"), 1: ("fp32", "tq3")}
    with pytest.raises(PassError, match="layers \\[1\\]"):
        QuantizeCache(plan=plan).apply(AttachCache()(toy_module()))
    lines = cache_lines("decode", plan={0: ("tq8", "tq2")}, seed=3, rounds=2)
    assert any("k=tq8, v=tq2" in line for line in lines)
    module = QuantizeCache(seed=3, rounds=2)(AttachCache()(toy_module()))
    values = [b.value for block in module["decode"].body.blocks for b in block.bindings]
    rotations = [value for value in values if is_op_call(value, "rotate")]
    assert [(int(r.attrs["seed"]), int(r.attrs["rounds"])) for r in rotations] == [(3, 2)] * 4


def test_reject_missing_and_wrong_matrices():
    with pytest.raises(PassError, match="needs a basis") as caught:
        QuantizeCache(("tq4", "16@3")).apply(AttachCache()(toy_module()))
    assert "V of layer 0" in str(caught.value)
    with pytest.raises(PassError, match="key basis does not fit"):
        QuantizeCache(("16@3", "tq4"), bases={0: bases(dim=32)}).apply(AttachCache()(toy_module()))
    with pytest.raises(PassError, match="layers \\[5\\]"):
        QuantizeCache(bases={5: bases()}).apply(AttachCache()(toy_module()))
