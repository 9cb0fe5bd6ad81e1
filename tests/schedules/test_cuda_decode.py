"""Decode on CUDA alone, as PTX: caches of any content, against attention over what they hold."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from cache_model import attention
from cpu_driver import close
from cuda_driver import CudaSequences, cuda_layout
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import rotation
from tqc.codec.fragments import scale_order
from tqc.codec.layout import CacheLayout, ring_pages
from tqc.schedules.cuda_config import DecodeConfig
from tqc.schedules.cuda_decode import make_decode
from tqc.schedules.cuda_rotate import Turn

LAYOUT = cuda_layout(4, 2, 64, "tq4", "tq3", recent=64)
SCALE, HELD = 0.2, [1, 5, 137, 600]
TOLERANCE = CudaSequences.tolerance


def decode(run: CudaSequences, q: np.ndarray, length: list[int], new_len: list[int], logits=None) -> np.ndarray:
    y = np.full((*q.shape[:3], run.layout.form("v").rows), 55.0, np.float32)
    control = [np.array(length, np.int32), np.array(new_len, np.int32), run.table]
    run.run("decode", [q, *([] if logits is None else [logits]), *control], y)
    return y


@functools.cache
def kernels(
    layout: CacheLayout, splits: int, arch: str = "sm_80", profile: bool = False, **options
) -> dict[str, Callable]:
    needs_nvcc()
    tiles = 1 if layout.head_dim == 256 else 2  # as many as there are registers for
    config = DecodeConfig(warps=2, stages=2, tiles=tiles, blocks=splits * 8, most_splits=splits)
    kernel = make_decode(layout, softmax_scale=SCALE, dtype="float16", config=config, arch=arch, **options)
    return interpreted({"decode": kernel}, arch, profile=profile)


def prepared(splits: int = 3, layout: CacheLayout = LAYOUT, **options) -> tuple[CudaSequences, np.ndarray]:
    """A run whose cache holds sequences of HELD tokens, the same for every kernel; and queries."""
    run = CudaSequences(layout, kernels(layout, splits, **options), batch=len(HELD), capacity=640)
    run.fill(*HELD)
    return run, run.vectors(layout.query_heads, 1, layout.form("k").rows)


def last(length: list[int]) -> list[int]:
    return [total - 1 for total in length]


def check(run: CudaSequences, q: np.ndarray, y: np.ndarray, **attributes) -> None:
    for b, total in enumerate(HELD):
        close(y[b], attention(q[b], *run.held(b, total), start=total - 1, scale=SCALE, **attributes), TOLERANCE)


@pytest.mark.parametrize("splits", [1, 3, 16])
def test_the_number_of_splits_does_not_change_the_result(splits: int) -> None:
    """Blocks take several tiles each; or one or none."""
    run, q = prepared(splits)
    y = decode(run, q, last(HELD), [1] * 4)
    check(run, q, y)
    other, same_q = prepared(3)
    np.testing.assert_array_equal(same_q, q)
    close(y, decode(other, q, last(HELD), [1] * 4), 2e-3)


@pytest.mark.parametrize(
    ("heads", "schemes", "options"),
    [
        ((8, 2, 128), ("tq4", "tq4"), {}),
        ((16, 1, 64), ("tq1", "tq2"), {"recent": 0}),
        ((20, 1, 64), ("fp16", "bf16"), {"sinks": 20}),
        ((3, 1, 80), ("tq5", "tq6"), {"sinks": 0}),
        ((2, 2, 96), ("tq7", "tq8"), {"recent": 0}),
        ((4, 2, 64), ("qjl2o", "tqp3"), {}),
        ((4, 2, 64), ("16@5/16@3/32@2", "tq2.5"), {}),
        ((4, 4, 48), ("polar", "polar-plain"), {"recent": 0}),
        ((12, 1, 256), ("tq3.5", "tq3"), {}),
    ],
)
def test_every_kind_of_page_and_of_group(heads: tuple, schemes: tuple, options: dict) -> None:
    run, q = prepared(layout=cuda_layout(*heads, *schemes, **options))
    check(run, q, decode(run, q, last(HELD), [1] * 4))


def test_the_same_for_sm_90() -> None:
    run, q = prepared(layout=cuda_layout(8, 2, 128, "tq4", "tq3"), arch="sm_90")
    check(run, q, decode(run, q, last(HELD), [1] * 4))


def test_codes_are_read_once_for_all_query_heads_and_banks_do_not_conflict() -> None:
    layout = cuda_layout(8, 2, 128, "tq4", "tq4")
    run, q = prepared(layout=layout, profile=True)
    decode(run, q, last(HELD), [1] * 4)
    report = run.kernels["decode"].reports[0]
    for b, total in enumerate(HELD):
        pages = run.table[b, : -(-layout.coded(total) // 64)]
        for name in ("k_codes", "k_scale", "v_codes", "v_scale"):
            size = run.state[name][0].nbytes
            reads = report.reads(name).reshape(-1, size)
            assert (reads[pages] == 1).all()
    assert (
        report.reads("k_codes").sum()
        == sum(layout.coded(total) for total in HELD) // 64 * run.state["k_codes"][0].nbytes
    )
    assert report.conflicts == 0


def test_the_result_is_the_same_bytes_in_any_pages() -> None:
    """Partial results are merged in the order of the splits, not in the order in which blocks end."""
    run, q = prepared(3)
    outputs = [decode(run, q, last(HELD), [1] * 4)]
    renamed = np.random.default_rng(1).permutation(len(run.state["k_codes"]))  # page p of the pool moves to renamed[p]
    for name in ("k_codes", "k_scale", "v_codes", "v_scale"):
        moved = np.empty_like(run.state[name])
        moved[renamed] = run.state[name]
        run.state[name][...] = moved
    run.table = renamed[run.table].astype(np.int32)
    outputs.append(decode(run, q, last(HELD), [1] * 4))
    np.testing.assert_array_equal(*outputs)


def test_a_split_whose_scores_are_far_below_does_not_matter_and_nothing_overflows() -> None:
    """Scores of ±thousands: the merge must take the highest of all splits as its top."""
    run, q = prepared(3)
    q *= 500
    y = decode(run, q, last(HELD), [1] * 4)
    assert np.isfinite(y).all()
    for b, total in enumerate(HELD):  # one token has all the weight, but where float16 queries cannot tell two apart
        wanted = attention(q[b].astype(np.float16), *run.held(b, total), start=total - 1, scale=SCALE)
        assert np.median(np.linalg.norm(y[b] - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)) < 0.02


@pytest.mark.parametrize("options", [{"window": 90, "softcap": 0.5}, {"window": 21}])
def test_a_window_and_a_softcap(options: dict) -> None:
    run, q = prepared(3, **options)
    check(run, q, decode(run, q, last(HELD), [1] * 4), **options)


def test_a_ring_of_pages() -> None:
    layout = cuda_layout(4, 2, 64, "tq4", "fp16", recent=64, ring=ring_pages(200, 64, 64))
    run, q = prepared(3, layout, window=200)
    check(run, q, decode(run, q, last(HELD), [1] * 4), window=200)


def test_without_a_new_token_there_are_zeros() -> None:
    """Whatever the cache holds, and next to sequences that go on."""
    run, q = prepared(3)
    y = decode(run, q, [0, 4, 137, 599], [0, 1, 0, 1])
    assert (y[[0, 2]] == 0).all()
    for b in (1, 3):
        close(y[b], attention(q[b], *run.held(b, HELD[b]), start=HELD[b] - 1, scale=SCALE), TOLERANCE)


@pytest.mark.parametrize("splits", [1, 16])
def test_sink_logits_are_counted_once_whatever_the_splits(splits: int) -> None:
    """Far above all scores, far below, between, and minus infinity: one for each query head."""
    run, q = prepared(splits, sink_logits=True)
    logits = np.array([50, -80, 0.7, -np.inf], np.float32)
    y = decode(run, q, last(HELD), [1] * 4, logits)
    check(run, q, y, sink_logits=logits)
    assert (decode(run, q, [0, 5, 137, 600], [0] * 4, logits) == 0).all()


def test_what_nobody_wrote_and_lost_tokens() -> None:
    """A lost token makes outputs that see it NaN; memory behind the end, or out of sight, does nothing."""
    run, q = prepared(3, cuda_layout(4, 2, 64, "tq4", "tq3", recent=0))
    length = [0, 3, 130, 590]
    before = decode(run, q, length, [1] * 4)
    page = run.table[2, 2]
    order = np.argsort(scale_order())
    for name in ("k_scale", "v_scale"):
        run.state[name][page][:, order[10:]] = np.nan  # of page 2 only 3 tokens are there
    np.testing.assert_array_equal(decode(run, q, length, [1] * 4), before)
    run.state["v_scale"][run.table[3, 4]][1, order[7]] = np.nan
    after = decode(run, q, length, [1] * 4)
    assert np.isnan(after[3, 2:]).all()
    np.testing.assert_array_equal(after[3, :2], before[3, :2])
    np.testing.assert_array_equal(after[:3], before[:3])


def test_queries_and_outputs_are_rotated_on_the_way() -> None:
    run, q = prepared(3, cuda_layout(8, 2, 128, "tq4", "tq4"), turn=Turn(1, 1), turn_back=Turn(5, 2))
    y = decode(run, q, last(HELD), [1] * 4)
    for b, total in enumerate(HELD):
        turned = rotation.rotate(q[b], 1)
        wanted = attention(turned, *run.held(b, total), start=total - 1, scale=SCALE)
        close(y[b], rotation.unrotate(wanted, 5, 2), TOLERANCE)
