from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, cuda_kernels, emulated

from tqc.codec.layout import CacheLayout
from tqc.errors import TargetError
from tqc.schedules.cuda_append import make_append


def append_only(layout: CacheLayout, *, batch: int = 2, dtype: str = "float32", reverse: bool = False) -> CudaSequences:
    kernels = emulated({"append": make_append(layout, dtype=dtype)}, reverse=reverse)
    return CudaSequences(layout, kernels, batch=batch, capacity=256, dtype=dtype)


def grow(run: CudaSequences, *new_lens: list[int]) -> None:
    """Appends chunks with rows of padding and checks the whole state after each."""
    for new_len in new_lens:
        k, v = (run.vectors(run.layout.kv_heads, max(new_len) + 1) for _ in "kv")
        run.append(k, v, np.array(new_len, np.int32))
        run.length += np.array(new_len, np.int32)
        run.check()


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_leave_the_exact_window_across_chunks_longer_and_shorter_than_the_tail(reverse):
    layout = CacheLayout(4, 2, 64, "tq4", "tq3", sinks=4, recent=32, page=16)
    grow(append_only(layout, reverse=reverse), [120, 60], [1, 0], [0, 15], [17, 1], [1, 64])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("recent", [0, 20])
def test_a_ring_keeps_the_newest_pages_of_any_chunk(recent, reverse):
    layout = CacheLayout(4, 2, 64, "tq4", "fp16", sinks=3, recent=recent, page=16, ring=3)
    grow(append_only(layout, reverse=reverse), [130, 60], [1, 0], [0, 15], [70, 1], [1, 64])


def test_a_partial_page_is_encoded_again_to_the_same_codes():
    layout = CacheLayout(2, 2, 32, "tq2", "tq6", sinks=0, recent=0, page=16)
    run = append_only(layout)
    grow(run, [21, 18])
    pages = [run.table[b, 1] for b in range(2)]
    before = {name: run.state[name][pages].copy() for name in ("k_scale", "v_scale")}
    grow(run, [3, 2])
    np.testing.assert_array_equal(run.state["k_scale"][pages[0], :, :5], before["k_scale"][0, :, :5])
    np.testing.assert_array_equal(run.state["v_scale"][pages[1], :, :2], before["v_scale"][1, :, :2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6, 3e38])
def test_a_vector_that_cannot_be_kept_gets_the_scale_nan_and_no_other_does(bad):
    layout = CacheLayout(1, 1, 32, "tq4", "tq1", sinks=0, recent=0, page=16)
    run = append_only(layout, batch=1)
    k, v = run.vectors(1, 20), run.vectors(1, 20)
    k[0, 0, 3, 5] = v[0, 0, 17, 0] = bad
    run.append(k, v, np.array([20], np.int32))
    k_scale, v_scale = (run.state[name][run.table[0, :2], 0].reshape(-1)[:20] for name in ("k_scale", "v_scale"))
    assert np.flatnonzero(~np.isfinite(k_scale)).tolist() == [3]
    assert np.flatnonzero(~np.isfinite(v_scale)).tolist() == [17]
    assert np.isnan(k_scale[3])
    assert np.isnan(v_scale[17])


def test_a_zero_vector_gets_the_scale_zero():
    layout = CacheLayout(1, 1, 32, "tq4", "tq4", sinks=0, recent=0, page=16)
    run = append_only(layout, batch=1)
    k, v = run.vectors(1, 8), run.vectors(1, 8)
    k[0, 0, 2] = 0
    run.append(k, v, np.array([8], np.int32))
    scale = run.state["k_scale"][run.table[0, 0], 0, :8]
    assert np.flatnonzero(scale == 0).tolist() == [2]


def test_the_parameters_are_the_contract(tmp_path):
    layout = CacheLayout(4, 2, 64, "tq4", "fp16", sinks=0)
    names = [str(parameter.name) for parameter in cuda_kernels(layout, softmax_scale=1.0)["append"].params]
    assert names == ["k", "v", "length", "new_len", "page_table", *(spec.name for spec in layout.tensors())]


def test_a_page_that_is_no_multiple_of_16_is_refused():
    with pytest.raises(TargetError, match="multiple of 16"):
        make_append(CacheLayout(4, 2, 64, page=24))
