"""Rotations beside cache ops become their kernels' own."""

from __future__ import annotations

import pytest
from outline import outline
from toy import toy_module

from tqc.dialect import is_op_call
from tqc.dialect.cache import turns_of
from tqc.passes.attach_cache import AttachCache
from tqc.passes.fuse_rotations import FuseRotations
from tqc.passes.quantize_cache import QuantizeCache


def quantized(default=("tq4", "tq4"), **options):
    return QuantizeCache(default=default, **options)(AttachCache(sinks=0)(toy_module()))


def turns(func) -> dict[str, dict]:
    values = [b.value for block in func.body.blocks for b in block.bindings]
    names = ("cache_append", "cached_attention")
    return {name: turns_of(value) for value in values for name in names if is_op_call(value, name)}


def test_decode_has_no_rotation_left():
    before = quantized(seed=3, rounds=2)
    assert len(outline(before["decode"], only="tqc.rotate")) == 4
    after = FuseRotations()(before)
    assert outline(after["decode"], only="tqc.rotate") == []
    assert turns(after["decode"]) == {
        "cache_append": {"k": (3, 2), "v": (3, 2)},
        "cached_attention": {"q": (3, 2), "y": (3, 2)},
    }
    lines = outline(after["decode"], only="tqc.cache")
    assert lines[0].startswith("%15 = tqc.cache_append(%11, %14, ")
    assert lines[1].startswith("%16 = tqc.cached_attention(%7, ")


def test_prefill_keeps_its_rotations():
    before = quantized()
    for name in ("prefill", "prefill_all"):
        assert outline(FuseRotations()(before)[name]) == outline(before[name])


def test_a_side_without_a_rotation_stays_as_it_is():
    after = FuseRotations()(quantized(default=("tq4", "fp16")))
    assert turns(after["decode"]) == {"cache_append": {"k": (0, 1)}, "cached_attention": {"q": (0, 1)}}


def test_queries_with_a_sketch_behind_them_are_rotated_before_it():
    """And values with a sketch after what they add up to there has come back."""
    after = FuseRotations()(quantized(default=("tqp4", "tqp3")))
    assert turns(after["decode"]) == {"cache_append": {"k": (0, 1), "v": (0, 1)}, "cached_attention": {}}
    assert len(outline(after["decode"], only="tqc.rotate")) == 2


@pytest.mark.parametrize("takes", [True, False])
def test_only_head_dims_that_the_kernels_take(takes):
    seen = []
    after = FuseRotations(lambda head_dim: seen.append(head_dim) or takes)(quantized())
    assert set(seen) == {16}
    assert bool(turns(after["decode"])["cache_append"]) == takes
