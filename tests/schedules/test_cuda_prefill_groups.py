"""Prefill by warpgroups, as PTX of sm_90a: what prefill by warps is tested for."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import cuda_layout
from test_cuda_prefill import CHUNK, NEW, check, chunk, prefill, prepared

from tqc.codec.layout import ring_pages
from tqc.errors import TargetError
from tqc.schedules.cuda_config import PrefillConfig

GROUPS = {"arch": "sm_90a", "config": PrefillConfig(4, products="wgmma")}


@pytest.mark.parametrize("options", [{}, {"window": 70, "softcap": 0.5}])
def test_chunks_of_several_lengths_and_zeros_beyond(options: dict) -> None:
    run = prepared(0, 3, 290, 137, 50, **options, **GROUPS)
    fresh = chunk(run)
    check(run, fresh, prefill(run, *fresh, NEW), NEW, **options)


@pytest.mark.parametrize(
    ("heads", "schemes", "options", "warps"),
    [
        ((8, 2, 128), ("tq4", "tq2"), {}, 8),
        ((20, 1, 64), ("fp16", "bf16"), {"sinks": 20}, 4),
        ((3, 1, 80), ("tq5", "tq6"), {"sinks": 0, "recent": 0}, 4),
        ((4, 2, 64), ("qjl2o", "tqp3"), {}, 4),
        ((4, 4, 48), ("polar", "16@5/32@0"), {"recent": 0}, 4),
        ((2, 1, 256), ("tq3.5", "tq1"), {}, 8),
    ],
)
def test_every_kind_of_page(heads: tuple, schemes: tuple, options: dict, warps: int) -> None:
    config = PrefillConfig(warps, products="wgmma")
    layout = cuda_layout(*heads, *schemes, **options)
    run = prepared(0, 3, 290, 137, 50, layout=layout, arch="sm_90a", config=config)
    fresh = chunk(run)
    check(run, fresh, prefill(run, *fresh, NEW), NEW)


def test_a_ring_of_pages() -> None:
    layout = cuda_layout(4, 2, 64, "tq4", "bf16", recent=64, ring=ring_pages(130, 64, 64))
    run = prepared(0, 3, 390, 137, 50, layout=layout, window=130, **GROUPS)
    fresh = chunk(run)
    check(run, fresh, prefill(run, *fresh, NEW), NEW, window=130)


def test_sink_logits_join_the_denominator() -> None:
    run = prepared(0, 3, 290, 137, 50, sink_logits=True, **GROUPS)
    fresh = chunk(run)
    logits = np.array([50, -80, 0.7, -np.inf, 0, 1], np.float32)
    check(run, fresh, prefill(run, *fresh, NEW, logits), NEW, sink_logits=logits)


def test_nan_stays_in_its_sequence_and_kv_head() -> None:
    run = prepared(0, 130, **GROUPS)
    q, k, v = chunk(run)
    v[0, 0, 80, 3] = np.nan
    k[0, 1, 70] = np.nan
    k[1, 1, 85] = v[1, 1, 85] = np.nan  # padding
    y = prefill(run, q, k, v, [CHUNK, 85])
    assert np.isnan(y[0, :3, 80:, 3]).all()
    assert not np.isnan(np.delete(y[0, :3], 3, axis=-1)).any()
    assert np.isnan(y[0, 3:, 70:]).all()
    assert not np.isnan(y[0, 3:, :40]).any()
    assert not np.isnan(y[1]).any()


@pytest.mark.parametrize(
    ("warps", "options", "arch", "says"),
    [
        (8, {}, "sm_90", "architecture sm_90a"),
        (2, {}, "sm_90a", "warps by fours"),
        (4, {"tiles": 3}, "sm_90a", "two tiles"),
        (4, {"expand": False}, "sm_90a", "expand"),
        (16, {}, "sm_90a", "65536 registers"),
    ],
)
def test_what_is_refused(warps: int, options: dict, arch: str, says: str) -> None:
    with pytest.raises(TargetError, match=says):
        PrefillConfig(warps, products="wgmma", **options).check(cuda_layout(8, 2, 128), arch)
