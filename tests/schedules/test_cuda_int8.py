"""Keys as int8: the grid of the centroids, and decode against attention over what the codes say."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from cache_model import attention
from cpu_driver import close
from cuda_driver import CudaSequences, cuda_layout
from hypothesis import given
from hypothesis import strategies as st
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec.form import form
from tqc.codec.layout import CacheLayout
from tqc.errors import TargetError
from tqc.schedules.cuda_config import DecodeConfig
from tqc.schedules.cuda_decode import make_decode
from tqc.schedules.cuda_int8 import fits_int8, grid, int8_table

SCALE, HELD = 0.2, [1, 137, 330]
TOLERANCE = 1e-2
"""Queries of 8 bits, beside what `CudaSequences.tolerance` has."""


@functools.cache
def kernels(layout: CacheLayout, arch: str) -> dict[str, Callable]:
    needs_nvcc()
    config = DecodeConfig(warps=2, stages=2, tiles=2, blocks=24, most_splits=3, keys="int8")
    kernel = make_decode(layout, softmax_scale=SCALE, dtype="float16", config=config, arch=arch)
    return interpreted({"decode": kernel}, arch)


def decoded(layout: CacheLayout, arch: str = "sm_80", change: Callable[[np.ndarray], None] = lambda q: None):
    """(run, q, outputs) of queries that attend to many tokens: scores of a few units."""
    run = CudaSequences(layout, kernels(layout, arch), batch=len(HELD), capacity=384)
    run.fill(*HELD)
    q = run.vectors(layout.query_heads, 1, layout.form("k").rows) * 0.15
    change(q)
    y = np.full((*q.shape[:3], layout.form("v").rows), 55.0, np.float32)
    last = np.array([total - 1 for total in HELD], np.int32)
    run.run("decode", [q, last, np.ones(len(HELD), np.int32), run.table], y)
    return run, q, y


@pytest.mark.parametrize(
    ("heads", "schemes", "options", "arch"),
    [
        ((8, 2, 128), ("tq4", "tq4"), {}, "sm_90"),
        ((8, 2, 128), ("tq2", "tq2"), {}, "sm_80"),
        ((4, 4, 64), ("tq3", "fp16"), {"recent": 0}, "sm_80"),
        ((20, 1, 48), ("tq1", "tq3"), {"sinks": 0}, "sm_80"),
        ((3, 1, 80), ("tq2", "tq5"), {}, "sm_80"),
        ((4, 2, 64), ("16@4+16@3+32@2", "tq2.5"), {}, "sm_80"),
        ((4, 2, 64), ("tq3.5", "tqp3"), {}, "sm_80"),
        ((4, 2, 64), ("tqp3", "tq2"), {}, "sm_90"),
    ],
)
def test_attention_is_that_over_the_codes(heads: tuple, schemes: tuple, options: dict, arch: str) -> None:
    layout = cuda_layout(*heads, *schemes, **options)
    run, q, y = decoded(layout, arch)
    for b, total in enumerate(HELD):
        close(y[b], attention(q[b], *run.held(b, total), start=total - 1, scale=SCALE), TOLERANCE)


def test_a_query_of_zeros_and_one_that_is_not_finite() -> None:
    """All tokens count alike for the first; the second is lost where there are codes, and alone."""
    layout = cuda_layout(8, 2, 128, "tq4", "tq4")

    def change(q: np.ndarray) -> None:
        q[:, 1], q[:, 2, 0, 5], q[:, 3, 0, 7] = 0, np.inf, np.nan

    run, q, y = decoded(layout, "sm_90", change)
    assert not np.isfinite(y[2, 2:4]).any()
    kept = [0, 1, 4, 5, 6, 7]
    assert np.isfinite(y[:, kept]).all()
    q[:, 2:4] = 0
    for b, total in enumerate(HELD):
        wanted = attention(q[b], *run.held(b, total), start=total - 1, scale=SCALE)
        close(y[b][kept], wanted[kept], TOLERANCE)


@given(st.integers(1, 4), st.sampled_from([32, 64, 80, 128, 256]))
def test_the_grid_is_near_the_centroids(bits: int, dim: int) -> None:
    stored = form(f"tq{bits}", dim)
    (band,) = stored.coded_bands
    centroids = stored.table(band).centroids
    unit, v = grid(centroids)
    np.testing.assert_allclose((v + 0.5) * unit, centroids[len(centroids) // 2 :], atol=0.004 * centroids[-1])
    assert v.max() <= 127
    table = int8_table(centroids).view(np.int8)
    if bits in (2, 3):  # the complement of v is the negative of it on the grid
        np.testing.assert_allclose((table[: 2**bits] + 0.5) * unit, centroids, atol=0.004 * centroids[-1])


def test_what_cannot_be_read_so_is_refused() -> None:
    for name, fits in {"tq4": True, "tq2.5": True, "qjl1": True, "tq5": False, "polar": False, "fp16": False}.items():
        layout = cuda_layout(4, 2, 64, name, "tq4")
        assert fits_int8(layout.form("k")) is fits
        if not fits:
            with pytest.raises(TargetError, match="int8 keys"):
                DecodeConfig(keys="int8").check(layout)
    with pytest.raises(TargetError, match="keys"):
        DecodeConfig(keys="int4")
