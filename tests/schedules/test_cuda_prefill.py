"""Prefill on CUDA alone, as PTX: caches of any content and chunks of several lengths."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from cache_model import attention
from cpu_driver import close, widened
from cuda_driver import CudaSequences, cuda_layout
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec.layout import CacheLayout, ring_pages
from tqc.errors import TargetError
from tqc.schedules.cuda_config import PrefillConfig
from tqc.schedules.cuda_prefill import make_prefill

LAYOUT = cuda_layout(6, 2, 64, "tq4", "tq3", recent=64)
SCALE, CHUNK = 0.05, 90
TOLERANCE = CudaSequences.tolerance


@functools.cache
def kernels(
    layout: CacheLayout, arch: str = "sm_80", config: PrefillConfig | None = None, **options
) -> dict[str, Callable]:
    """A chunk is no multiple of the queries of a block, nor of a page; rows are no multiple of the group."""
    needs_nvcc()
    config = config or PrefillConfig(warps=2, tiles=2)
    kernel = make_prefill(layout, softmax_scale=SCALE, dtype="float16", config=config, arch=arch, **options)
    return interpreted({"prefill": kernel}, arch)


def prepared(*lengths: int, layout: CacheLayout = LAYOUT, **options) -> CudaSequences:
    """A run whose cache holds sequences of these lengths."""
    run = CudaSequences(layout, kernels(layout, **options), batch=len(lengths), capacity=512)
    run.fill(*lengths)
    return run


def chunk(run: CudaSequences, rows: int = CHUNK) -> list[np.ndarray]:
    layout = run.layout
    q = run.vectors(layout.query_heads, rows, layout.form("k").rows)
    return [q, *(run.vectors(layout.kv_heads, rows) for _ in "kv")]


def prefill(
    run: CudaSequences, q: np.ndarray, k: np.ndarray, v: np.ndarray, new_len: list[int], logits=None
) -> np.ndarray:
    y = np.full((*q.shape[:3], run.layout.form("v").rows), 55.0, np.float32)
    run.run(
        "prefill",
        [q, k, v, *([] if logits is None else [logits]), run.length, np.array(new_len, np.int32), run.table],
        y,
    )
    return y


def check(run: CudaSequences, fresh: list[np.ndarray], y: np.ndarray, new_len: list[int], **attributes) -> None:
    """Rows before new_len are attention over the cache and the chunk, the others zeros."""
    q, *kv = fresh
    for b, new in enumerate(new_len):
        length = int(run.length[b])
        held = [
            np.concatenate([old, widened(x[b, :, :new], old)], 1)
            for old, x in zip(run.held(b, length), kv, strict=True)
        ]
        if new:
            wanted = attention(q[b, :, :new], *held, start=length, scale=SCALE, **attributes)
            close(y[b, :, :new], wanted, TOLERANCE)
        assert (y[b, :, new:] == 0).all()


NEW = [CHUNK, 20, 30, 1, 0]


@pytest.mark.parametrize("options", [{}, {"window": 70, "softcap": 0.5}, {"arch": "sm_90"}])
def test_chunks_of_several_lengths_and_zeros_beyond(options: dict) -> None:
    """An empty cache, sinks alone, codes and a partial page; a whole chunk, some of it, one row, none."""
    run = prepared(0, 3, 290, 137, 50, **options)
    fresh = chunk(run)
    attributes = {key: value for key, value in options.items() if key != "arch"}
    check(run, fresh, prefill(run, *fresh, NEW), NEW, **attributes)


def test_a_ring_of_pages() -> None:
    layout = cuda_layout(4, 2, 64, "tq4", "bf16", recent=64, ring=ring_pages(130, 64, 64))
    run = prepared(0, 3, 390, 137, 50, layout=layout, window=130)
    fresh = chunk(run)
    check(run, fresh, prefill(run, *fresh, NEW), NEW, window=130)


def test_a_chunk_shorter_than_a_block_s_queries() -> None:
    run = prepared(0, 170)
    for rows in (1, 2):
        fresh = chunk(run, rows)
        check(run, fresh, prefill(run, *fresh, [rows, 1]), [rows, 1])


def test_a_row_does_not_see_later_ones_nor_padding() -> None:
    """Other vectors from row 18 on change no bit of the rows before; those from new_len on change nothing at all."""
    run = prepared(40, 40)
    (q, k, v), new_len = chunk(run), [30, 30]
    before = prefill(run, q, k, v, new_len)
    later, padding = [], []
    for x in (k, v):
        for changed, first in ((later, 18), (padding, 30)):
            other = x.copy()
            other[0, :, first:] = run.vectors(LAYOUT.kv_heads, CHUNK - first)[0]
            changed.append(other)
    np.testing.assert_array_equal(prefill(run, q, *padding, new_len), before)
    after = prefill(run, q, *later, new_len)
    np.testing.assert_array_equal(after[0, :, :18], before[0, :, :18])
    assert (after[0, :, 18:30] != before[0, :, 18:30]).any(axis=-1).all()
    np.testing.assert_array_equal(after[1], before[1])


def test_nan_stays_where_it_is() -> None:
    """Of its own sequence and KV head: 0 times NaN is NaN too, so rows before it in its tile of 64 tokens are lost."""
    run = prepared(0, 130)
    q, k, v = chunk(run, 151)
    v[0, 0, 100, 3] = np.nan
    k[0, 1, 90] = np.nan
    k[1, 1, 150] = v[1, 1, 150] = np.nan  # padding
    y = prefill(run, q, k, v, [150, 150])
    first_group, second_group = y[0, :3], y[0, 3:]
    assert np.isnan(first_group[:, 100:150, 3]).all()
    assert not np.isnan(first_group[:, :64]).any()
    assert not np.isnan(np.delete(first_group, 3, axis=-1)).any()
    assert np.isnan(second_group[:, 90:150]).all()
    assert not np.isnan(second_group[:, :90]).any()
    assert not np.isnan(y[1]).any()


@pytest.mark.parametrize("options", [{}, {"window": 70}])
def test_sink_logits_join_the_denominator(options: dict) -> None:
    """Far above all scores, far below, between, and minus infinity: one for each query head."""
    run = prepared(0, 3, 290, 137, 50, sink_logits=True, **options)
    fresh = chunk(run)
    logits = np.array([50, -80, 0.7, -np.inf, 0, 1], np.float32)
    y = prefill(run, *fresh, NEW, logits)
    check(run, fresh, y, NEW, sink_logits=logits, **options)


def test_a_group_larger_than_a_block_is_refused() -> None:
    with pytest.raises(TargetError, match="GQA group"):
        make_prefill(cuda_layout(71, 1, 64), softmax_scale=1.0, config=PrefillConfig(warps=1, tiles=2))
