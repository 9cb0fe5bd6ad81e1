from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, cuda_kernels, cuda_layout, emulated
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec.fragments import scale_order
from tqc.codec.layout import CacheLayout
from tqc.errors import TargetError
from tqc.schedules.cuda_append import make_append


def append_only(layout: CacheLayout, *, batch: int = 2, dtype: str = "float16", reverse: bool = False) -> CudaSequences:
    kernels = emulated({"append": make_append(layout, dtype=dtype)}, reverse=reverse)
    return CudaSequences(layout, kernels, batch=batch, capacity=640, dtype=dtype)


def grow(run: CudaSequences, *new_lens: list[int]) -> None:
    """Appends chunks with rows of padding and checks the whole state after each."""
    for new_len in new_lens:
        k, v = (run.vectors(run.layout.kv_heads, max(new_len) + 1) for _ in "kv")
        run.append(k, v, np.array(new_len, np.int32))
        run.length += np.array(new_len, np.int32)
        run.check()


CHUNKS = [300, 200], [1, 0], [0, 60], [65, 1], [1, 130]


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_leave_the_exact_window_across_chunks_longer_and_shorter_than_the_tail(reverse):
    grow(append_only(cuda_layout(4, 2, 64, "tq4", "tq3", recent=32), reverse=reverse), *CHUNKS)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("recent", [0, 100])
def test_a_ring_keeps_the_newest_pages_of_any_chunk(recent, reverse):
    layout = cuda_layout(4, 2, 64, "tq4", "fp16", sinks=3, recent=recent, ring=3)
    grow(append_only(layout, reverse=reverse), *CHUNKS)


@pytest.mark.parametrize(
    ("arch", "schemes", "options"),
    [
        ("sm_80", ("tq4", "tq3"), {}),
        ("sm_90", ("tqp4", "polar"), {"recent": 0}),
        ("sm_80", ("qjl2o", "tq2.5"), {"sinks": 20, "recent": 64}),
    ],
)
def test_as_ptx_it_writes_the_same_and_its_threads_do_not_meet(arch, schemes, options):
    """The interpreter reports races, reads of what nobody wrote, and accesses out of bounds."""
    needs_nvcc()
    layout = cuda_layout(4, 2, 64, *schemes, **options)
    kernels = interpreted(cuda_kernels(layout, names=("append",), arch=arch), arch)
    grow(CudaSequences(layout, kernels, batch=2, capacity=640), *CHUNKS)


def test_a_partial_page_is_encoded_again_to_the_same_codes():
    layout = cuda_layout(2, 2, 32, "tq2", "tq6", sinks=0, recent=0)
    run = append_only(layout)
    grow(run, [85, 70])
    pages = [run.table[b, 1] for b in range(2)]
    before = {name: run.state[name][pages].copy() for name in ("k_scale", "v_scale")}
    grow(run, [3, 2])
    kept = scale_element_of(np.arange(5))
    np.testing.assert_array_equal(run.state["k_scale"][pages[0]][:, kept], before["k_scale"][0][:, kept])
    np.testing.assert_array_equal(run.state["v_scale"][pages[1]][:, kept], before["v_scale"][1][:, kept])


def scale_element_of(token: np.ndarray) -> np.ndarray:
    return np.argsort(scale_order())[token]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6, 3e38])
def test_a_vector_that_cannot_be_kept_gets_the_scale_nan_and_no_other_does(bad):
    layout = cuda_layout(1, 1, 32, "tq4", "tq1", sinks=0, recent=0)
    run = append_only(layout, batch=1, dtype="float32")
    k, v = run.vectors(1, 80), run.vectors(1, 80)
    k[0, 0, 3, 5] = v[0, 0, 67, 0] = bad
    run.append(k, v, np.array([80], np.int32))
    order = np.argsort(scale_order())
    k_scale, v_scale = (
        run.state[name][run.table[0, :2], 0][:, order].reshape(-1)[:80] for name in ("k_scale", "v_scale")
    )
    assert np.flatnonzero(~np.isfinite(k_scale)).tolist() == [3]
    assert np.flatnonzero(~np.isfinite(v_scale)).tolist() == [67]
    assert np.isnan(k_scale[3])
    assert np.isnan(v_scale[67])


def test_a_zero_vector_gets_the_scale_zero():
    layout = cuda_layout(1, 1, 32, "tq4", "tq4", sinks=0, recent=0)
    run = append_only(layout, batch=1)
    k, v = run.vectors(1, 8), run.vectors(1, 8)
    k[0, 0, 2] = 0
    run.append(k, v, np.array([8], np.int32))
    scale = run.state["k_scale"][run.table[0, 0], 0][scale_element_of(np.arange(8))]
    assert np.flatnonzero(scale == 0).tolist() == [2]


def test_the_parameters_are_the_contract():
    layout = cuda_layout(4, 2, 64, "tq4", "fp16", sinks=0)
    for name, kernel in cuda_kernels(layout, names=("append", "append_token")).items():
        names = [str(parameter.name) for parameter in kernel.params]
        assert names == ["k", "v", "length", "new_len", "page_table", *(spec.name for spec in layout.tensors())], name


def test_a_page_of_another_size_is_refused():
    with pytest.raises(TargetError, match="tensor cores"):
        make_append(cuda_layout(4, 2, 64, page=32))
