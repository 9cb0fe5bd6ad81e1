"""Configurations of the CUDA kernels: what fits, and what is said about what does not."""

from __future__ import annotations

import pytest
from cuda_driver import cuda_layout
from hypothesis import given
from hypothesis import strategies as st

from tqc.codec.layout import CacheLayout
from tqc.codec.scheme import NAMED
from tqc.codegen.target import CUDA_ARCHS
from tqc.errors import TargetError
from tqc.schedules.cuda_config import (
    SCHEDULES,
    SHARED_BYTES,
    SMS,
    AppendConfig,
    DecodeConfig,
    PrefillConfig,
    attention_registers,
    check_dtype,
    check_layout,
    default_config,
)

MEASURED = [name for name in NAMED if name != "fp32"]


def test_every_architecture_has_its_limits():
    assert set(SHARED_BYTES) == set(SMS) == set(CUDA_ARCHS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DecodeConfig, {"warps": 0}),
        (DecodeConfig, {"stages": 9}),
        (DecodeConfig, {"blocks": 0}),
        (DecodeConfig, {"most_splits": 2000}),
        (DecodeConfig, {"keys": "float64"}),
        (PrefillConfig, {"warps": 17}),
        (PrefillConfig, {"tiles": 0}),
        (AppendConfig, {"threads": 100}),
        (AppendConfig, {"threads": 2048}),
    ],
)
def test_a_value_out_of_range_is_refused(kind, options):
    with pytest.raises(TargetError, match=next(iter(options))):
        kind(**options)


@given(
    st.sampled_from([64, 80, 96, 128, 256]),
    st.sampled_from([1, 3, 4, 8, 16]),
    st.sampled_from(MEASURED),
    st.sampled_from([name for name in MEASURED if not name.startswith("qjl")]),
    st.sampled_from(["sm_80", "sm_86", "sm_90"]),
)
def test_there_is_a_default_for_every_layout(dim, group, k, v, arch):
    layout = cuda_layout(2 * group, 2, dim, k, v)
    for schedule, kind in SCHEDULES.items():
        wide = dim == 256 and (schedule == "append" or k.startswith(("qjl", "polar")) or v.startswith("polar"))
        if wide or (k.startswith("qjl3") and v.startswith("polar")):
            continue  # long sketches, and angles of the widest vectors, may not fit
        config = default_config(schedule, layout, arch)
        assert isinstance(config, kind)
        config.check(layout, arch)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_space_has_no_value_twice_and_all_fit(schedule):
    layout = cuda_layout(32, 8, 128, "tq4", "tq3")
    space = list(SCHEDULES[schedule].space(layout, "sm_90"))
    assert len(set(space)) == len(space) > 2
    for config in space:
        config.check(layout, "sm_90")
    smaller = set(SCHEDULES[schedule].space(layout, "sm_86"))
    assert len(smaller) <= len(space)


def test_what_does_not_fit_says_so():
    layout = cuda_layout(16, 1, 256, "qjl3", "tqp8")
    with pytest.raises(TargetError, match="shared memory on sm_86"):
        DecodeConfig(warps=16, stages=8).check(layout, "sm_86")
    with pytest.raises(TargetError, match="255 registers"):
        PrefillConfig(warps=1, tiles=4).check(cuda_layout(16, 1, 256), "sm_90")


def test_rows_of_a_block():
    config, sizes = DecodeConfig(tiles=2), {}
    for group in (1, 8, 9, 16, 17, 20, 71):
        layout = cuda_layout(group, 1, 64)
        sizes[group] = config.groups(layout), config.rows(layout), config.row_tiles(layout)
    one, two = {1: (1, 1, 1), 8: (1, 8, 1)}, {9: (1, 9, 2), 16: (1, 16, 2)}
    assert sizes == one | two | {17: (2, 9, 2), 20: (2, 10, 2), 71: (5, 15, 2)}
    assert DecodeConfig(tiles=1).groups(cuda_layout(16, 1, 64)) == 2
    assert PrefillConfig(4, 2).queries(cuda_layout(6, 2, 64)) == 21


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"order": "lanes"}, "order"),
        ({"page": 32}, "tensor cores"),
        ({"exact_dtype": "float32"}, "exact tokens"),
        ({"v": "fp32"}, "scheme of v"),
    ],
)
def test_layouts_that_no_kernel_takes(options, what):
    with pytest.raises(TargetError, match=what):
        check_layout(cuda_layout(4, 2, 64, **options))


def test_other_rejects():
    with pytest.raises(TargetError, match="dtype"):
        check_dtype("bfloat16")
    with pytest.raises(TargetError, match="query_heads"):
        check_layout(CacheLayout(5, 2, 64, order="fragments", exact_dtype="float16"))


def test_registers_grow_with_what_is_held():
    layout = cuda_layout(8, 1, 128)
    assert attention_registers(layout, 2) > attention_registers(layout, 1)
    assert attention_registers(cuda_layout(8, 1, 128, "tqp4"), 1) > attention_registers(layout, 1)
