"""Schemes are set and rotations appear around the cache."""

import pytest
from outline import outline
from toy import toy_module

from tqc.errors import PassError
from tqc.passes.attach_cache import AttachCache
from tqc.passes.quantize_cache import QuantizeCache

COUNTS = "length, new_len, page_table"


def cache_lines(phase: str, **options) -> list[str]:
    module = QuantizeCache(**options)(AttachCache(sinks=0)(toy_module()))
    return [line for line in outline(module[phase]) if "cache" in line or "rotate" in line]


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
