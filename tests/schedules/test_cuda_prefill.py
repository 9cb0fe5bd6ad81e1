"""Prefill on CUDA alone, emulated on the CPU: caches of any content and chunks of several lengths."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from cache_model import attention
from cpu_driver import close
from cuda_driver import CudaSequences, emulated

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_config import CudaConfig
from tqc.schedules.cuda_prefill import make_prefill

LAYOUT = CacheLayout(4, 2, 32, "tq4", "tq3", sinks=4, recent=16, page=16)
SCALE, CHUNK = 0.2, 37


@functools.cache
def kernels(query_rows: int = 3, **options) -> dict[str, Callable]:
    """A chunk is no multiple of the queries of a block, nor of a page."""
    config = CudaConfig(threads=64, query_rows=query_rows)
    return emulated({"prefill": make_prefill(LAYOUT, softmax_scale=SCALE, config=config, **options)})


def prepared(*lengths: int, **options) -> CudaSequences:
    """A run whose cache holds sequences of these lengths."""
    run = CudaSequences(LAYOUT, kernels(**options), batch=len(lengths), capacity=160)
    run.fill(*lengths)
    return run


def chunk(run: CudaSequences, rows: int = CHUNK) -> list[np.ndarray]:
    return [run.vectors(heads, rows) for heads in (LAYOUT.query_heads, LAYOUT.kv_heads, LAYOUT.kv_heads)]


def prefill(
    run: CudaSequences, q: np.ndarray, k: np.ndarray, v: np.ndarray, new_len: list[int], logits=None
) -> np.ndarray:
    y = np.full_like(q, 55.0)
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
        held = [np.concatenate([old, x[b, :, :new]], 1) for old, x in zip(run.held(b, length), kv, strict=True)]
        if new:
            close(y[b, :, :new], attention(q[b, :, :new], *held, start=length, scale=SCALE, **attributes))
        assert (y[b, :, new:] == 0).all()


@pytest.mark.parametrize("options", [{}, {"window": 21, "softcap": 0.5, "query_rows": 5}])
def test_chunks_of_several_lengths_and_zeros_beyond(options: dict) -> None:
    """An empty cache, sinks alone, codes and a partial page; a whole chunk, some of it, one row, none."""
    run = prepared(0, 3, 90, 37, 50, **options)
    fresh, new_len = chunk(run), [CHUNK, 20, 30, 1, 0]
    attributes = {key: value for key, value in options.items() if key != "query_rows"}
    check(run, fresh, prefill(run, *fresh, new_len), new_len, **attributes)


def test_a_chunk_shorter_than_a_block_s_queries() -> None:
    run = prepared(0, 70)
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


def test_nan_reaches_only_rows_that_see_it() -> None:
    run = prepared(0, 30)
    q, k, v = chunk(run, 61)
    v[0, 0, 40, 3] = np.nan
    k[1, 1, 60] = np.nan  # padding
    y = prefill(run, q, k, v, [60, 60])
    first_group, others = y[0, :2], y[0, 2:]
    assert np.isnan(first_group[:, 40:60, 3]).all()
    assert not np.isnan(first_group[:, :40]).any()
    assert not np.isnan(np.delete(first_group, 3, axis=-1)).any()
    assert not np.isnan(others).any()
    assert not np.isnan(y[1]).any()


@pytest.mark.parametrize("options", [{}, {"window": 21}])
def test_sink_logits_join_the_denominator(options: dict) -> None:
    """Far above all scores, far below, between, and minus infinity: one for each query head."""
    run = prepared(0, 3, 90, 37, 50, sink_logits=True, **options)
    fresh, new_len = chunk(run), [CHUNK, 20, 30, 1, 0]
    logits = np.array([50, -80, 0.7, -np.inf], np.float32)
    y = prefill(run, *fresh, new_len, logits)
    check(run, fresh, y, new_len, sink_logits=logits, **options)
