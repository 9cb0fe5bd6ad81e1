"""Decode on CUDA alone, emulated on the CPU: caches of any content, against attention over what they hold."""

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
from tqc.schedules.cuda_decode import make_decode

LAYOUT = CacheLayout(4, 2, 32, "tq4", "tq3", sinks=4, recent=16, page=16)
SCALE, HELD = 0.2, [1, 5, 37, 150]


def decode(run: CudaSequences, q: np.ndarray, length: list[int], new_len: list[int], logits=None) -> np.ndarray:
    y = np.full_like(q, 55.0)
    control = [np.array(length, np.int32), np.array(new_len, np.int32), run.table]
    run.run("decode", [q, *([] if logits is None else [logits]), *control], y)
    return y


@functools.cache
def kernels(splits: int, reverse: bool = False, **options) -> dict[str, Callable]:
    config = CudaConfig(threads=64, splits=splits)
    kernel = make_decode(LAYOUT, softmax_scale=SCALE, config=config, **options)
    return emulated({"decode": kernel}, reverse=reverse)


def prepared(splits: int, **options) -> tuple[CudaSequences, np.ndarray]:
    """A run whose cache holds sequences of HELD tokens, the same for every kernel; and queries."""
    run = CudaSequences(LAYOUT, kernels(splits, **options), batch=len(HELD), capacity=160)
    run.fill(*HELD)
    return run, run.vectors(LAYOUT.query_heads, 1)


def last(length: list[int]) -> list[int]:
    return [total - 1 for total in length]


def check(run: CudaSequences, q: np.ndarray, y: np.ndarray, **attributes) -> None:
    for b, total in enumerate(HELD):
        close(y[b], attention(q[b], *run.held(b, total), start=total - 1, scale=SCALE, **attributes))


@pytest.mark.parametrize("splits", [3, 32])
def test_the_number_of_splits_does_not_change_the_result(splits: int) -> None:
    """Blocks take several tiles each; or one or none."""
    run, q = prepared(splits)
    y = decode(run, q, last(HELD), [1] * 4)
    check(run, q, y)
    other, same_q = prepared(32 if splits == 3 else 3)
    np.testing.assert_array_equal(same_q, q)
    close(y, decode(other, q, last(HELD), [1] * 4), 1e-5)


def test_the_result_is_the_same_bytes_in_any_order_of_blocks_and_in_any_pages() -> None:
    """Partial results are merged in the order of the splits, not in the order in which blocks end."""
    outputs = []
    for reverse in (False, True):
        run, q = prepared(3, reverse=reverse)
        outputs.append(decode(run, q, last(HELD), [1] * 4))
    renamed = np.random.default_rng(1).permutation(len(run.state["k_codes"]))  # page p of the pool moves to renamed[p]
    for name in ("k_codes", "k_scale", "v_codes", "v_scale"):
        moved = np.empty_like(run.state[name])
        moved[renamed] = run.state[name]
        run.state[name][...] = moved
    run.table = renamed[run.table].astype(np.int32)
    outputs.append(decode(run, q, last(HELD), [1] * 4))
    for other in outputs[1:]:
        np.testing.assert_array_equal(other, outputs[0])


def test_a_split_whose_scores_are_far_below_does_not_matter_and_nothing_overflows() -> None:
    """Scores of ±thousands: the merge must take the highest of all splits as its top."""
    run, q = prepared(3)
    q *= 2000
    y = decode(run, q, last(HELD), [1] * 4)
    assert np.isfinite(y).all()
    check(run, q, y)


def test_a_window_and_a_softcap() -> None:
    options = {"window": 21, "softcap": 0.5}
    run, q = prepared(3, **options)
    check(run, q, decode(run, q, last(HELD), [1] * 4), **options)


def test_without_a_new_token_there_are_zeros() -> None:
    """Whatever the cache holds, and next to sequences that go on."""
    run, q = prepared(3)
    y = decode(run, q, [0, 4, 37, 149], [0, 1, 0, 1])
    assert (y[[0, 2]] == 0).all()
    for b in (1, 3):
        close(y[b], attention(q[b], *run.held(b, HELD[b]), start=HELD[b] - 1, scale=SCALE))


@pytest.mark.parametrize("splits", [1, 3, 32])
def test_sink_logits_are_counted_once_whatever_the_splits(splits: int) -> None:
    """Far above all scores, far below, between, and minus infinity: one for each query head."""
    run, q = prepared(splits, sink_logits=True)
    logits = np.array([50, -80, 0.7, -np.inf], np.float32)
    y = decode(run, q, last(HELD), [1] * 4, logits)
    check(run, q, y, sink_logits=logits)
    assert (decode(run, q, [0, 5, 37, 150], [0] * 4, logits) == 0).all()
