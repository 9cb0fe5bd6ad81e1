"""Pages to shared memory: every byte once, by all threads."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import cuda_layout, probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.schedules.cuda_builder import blocks, i32, store, threads
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_copies import copy_block, copy_page
from tqc.schedules.cuda_ptx import commit_copies, load_shared, registers, shared_memory, sync_block, u32, wait_copies
from tqc.schedules.cuda_sides import page_bytes


@pytest.mark.parametrize(("size", "count"), [(16, 32), (512, 32), (1920, 32), (4096, 128), (80, 64)])
def test_a_block_of_bytes(size: int, count: int) -> None:
    needs_nvcc()
    x = np.random.default_rng(0).integers(0, 2**32, (3, 2048), np.uint32)
    y = np.zeros(size // 4, np.uint32)

    def emit(x, y) -> None:
        with blocks(1, 1, 1), threads(count) as thread:
            memory = shared_memory(size)
            copy_block(memory, size, x, (i32(1),), thread, count)
            _store_all(memory, size // 4, y, thread, count)

    kernel = interpreted({"copy": probe(emit, x, y)}, "sm_80", unwritten=["a1"], profile=True)["copy"]
    kernel(x, y)
    np.testing.assert_array_equal(y, x[1, : size // 4])
    reads = kernel.reports[0].reads("a0").reshape(3, -1)
    assert (reads[1, :size] == 1).all()
    assert reads.sum() == size


def _store_all(memory, words: int, y, thread, count: int) -> None:
    from tqc.schedules.cuda_builder import when

    commit_copies()
    wait_copies(0)
    sync_block()
    word = registers("word", 1, "uint32")
    for turn in range(-(-words // count)):
        at = thread + turn * count
        with when(at < words):
            load_shared([word[0]], memory + u32(at) * u32(4))
            store(y, word[0], at)


def test_a_page_has_its_scales_behind_its_codes() -> None:
    needs_nvcc()
    layout = cuda_layout(4, 2, 80, "tqp3", "tq4")
    stored = layout.form("k")
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**32, (3, 2, stored.units(64) // 2), np.uint32)
    scales = rng.standard_normal((3, 2, 128)).astype(np.float16)
    y = np.zeros(page_bytes(stored) // 4, np.uint32)

    def emit(codes, scales, y) -> None:
        with blocks(1, 1, 1), threads(32) as thread:
            memory = shared_memory(page_bytes(stored))
            cache = Cache(layout, None, None, None, {"k_codes": codes, "k_scale": scales})
            copy_page(memory, "k", stored, cache, (i32(2), i32(1)), thread, 32)
            _store_all(memory, len(y_words), y, thread, 32)

    y_words = y
    interpreted({"copy": probe(emit, codes, scales, y)}, "sm_80", unwritten=["a2"])["copy"](codes, scales, y)
    np.testing.assert_array_equal(y, np.concatenate([codes[2, 1], scales[2, 1].view(np.uint32)]))
