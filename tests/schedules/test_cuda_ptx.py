"""The vocabulary of warp-level kernels, on the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_error import PtxError
from ptx_kernel import interpreted
from tvm import tirx

from tqc.codec import fragments
from tqc.schedules import cuda_ptx as ptx
from tqc.schedules.cuda_builder import blocks, f32, i32, store, threads, when

U32 = ptx.u32


def run(emit, *arrays: np.ndarray, unwritten: tuple[str, ...] = (), **options):
    needs_nvcc()

    def body(*buffers) -> None:
        with blocks(1, 1, 1), threads(options.get("threads", 32)) as thread:
            emit(thread, *buffers)

    kernel = interpreted({"probe": probe(body, *arrays)}, "sm_80", unwritten=unwritten)["probe"]
    kernel(*arrays)
    return kernel.reports[0]


def test_all_of_the_shared_memory_is_there() -> None:
    """TVM keeps only elements of an array that it sees used; of this one it sees none."""
    y = np.zeros(32, np.uint32)

    def emit(thread, y) -> None:
        memory = ptx.shared_memory(96 * 1024)
        at = memory + U32(96 * 1024 - 128) + U32(thread) * U32(4)
        ptx.store_shared(at, U32(thread) + U32(7))
        found = ptx.registers("found", 1, "uint32")
        ptx.load_shared([found[0]], at)
        store(y, found[0], thread)

    run(emit, y)
    np.testing.assert_array_equal(y, np.arange(32) + 7)


def test_copies_bring_bytes_or_zeros() -> None:
    x, y = np.arange(256, dtype=np.uint32), np.zeros((2, 64), np.uint32)

    def emit(thread, x, y) -> None:
        memory = ptx.shared_memory(1024)
        at = memory + U32(thread) * U32(16)
        ptx.copy_async_or_zeros(at, x, thread * 4, exists=thread < 10)
        ptx.commit_copies()
        ptx.copy_async(at + U32(512), x, thread * 4 + 128)
        ptx.commit_copies()
        ptx.wait_copies(0)
        words = ptx.registers("words", 4, "uint32")
        for half in range(2):
            ptx.load_shared([words[n] for n in range(4)], at + U32(512 * half))
            for n in range(4):
                with when(thread < 16):
                    store(y, words[n], half, thread * 4 + n)

    run(emit, x, y)
    np.testing.assert_array_equal(y[0], np.where(np.arange(64) < 40, np.arange(64), 0))
    np.testing.assert_array_equal(y[1], np.arange(128, 192))


def test_a_copy_has_to_be_waited_for() -> None:
    x, y = np.arange(128, dtype=np.uint32), np.zeros(32, np.uint32)

    def emit(thread, x, y) -> None:
        at = ptx.shared_memory(512) + U32(thread) * U32(16)
        ptx.copy_async(at, x, thread * 4)
        ptx.commit_copies()
        word = ptx.registers("word", 1, "uint32")
        ptx.load_shared([word[0]], at)
        store(y, word[0], thread)

    with pytest.raises(PtxError):
        run(emit, x, y)


def test_a_product_has_the_order_of_fragments() -> None:
    """Operand A as a page's exact fragments, operand B a pair of rows of q along the lanes."""
    rng = np.random.default_rng(0)
    keys, q = rng.standard_normal((16, 16)).astype(np.float16), rng.standard_normal((8, 16)).astype(np.float16)
    a = fragments.pack_exact(keys, "k").view(np.uint32).reshape(32, 4)
    lane = np.arange(32)
    dims = 2 * (lane % 4)[:, None] + np.array([0, 1, 8, 9])
    b = np.ascontiguousarray(q[(lane // 4)[:, None], dims]).view(np.uint32)
    y = np.zeros((32, 4), np.float32)

    def emit(thread, a, b, y) -> None:
        sums = ptx.registers("sums", 4)
        for n in range(4):
            store(sums, f32(0.0), n)
        ptx.mma([sums[n] for n in range(4)], [a[thread, n] for n in range(4)], [b[thread, n] for n in range(2)])
        for n in range(4):
            store(y, sums[n], thread, n)

    run(emit, a, b, y)
    wanted = keys.astype(np.float32) @ q.astype(np.float32).T
    for n in range(4):
        token, row = lane // 4 + 8 * (n // 2), 2 * (lane % 4) + n % 2
        np.testing.assert_allclose(y[:, n], wanted[token, row], rtol=1e-5, atol=1e-5)


def test_lanes_halves_and_bytes() -> None:
    x = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    y, words = np.zeros((4, 32), np.float32), np.zeros((2, 32), np.uint32)

    def emit(thread, x, y, words) -> None:
        got, packed = ptx.registers("got", 1), ptx.registers("packed", 2, "uint32")
        ptx.from_lane(got[0], x[thread], 5)
        store(y, got[0], 0, thread)
        ptx.exp2(got[0], x[thread])
        store(y, got[0], 1, thread)
        ptx.pack_halves(packed[0], x[thread], f32(2.0))
        for half in range(2):
            store(y, ptx.half_of(packed[0], bool(half)), 2 + half, thread)
        store(words, packed[0], 0, thread)
        ptx.transpose(packed[1], packed[0])
        store(words, packed[1], 1, thread)

    run(emit, x, y, words)
    np.testing.assert_array_equal(y[0], x[np.arange(32) ^ 5])
    np.testing.assert_allclose(y[1], np.exp2(x), rtol=1e-6)
    np.testing.assert_array_equal(y[2], x.astype(np.float16))
    np.testing.assert_array_equal(y[3], np.full(32, 2))
    before, after = (row.view(np.float16).reshape(8, 8) for row in words)
    np.testing.assert_array_equal(after, before.T)


def test_a_kernel_of_several_warps_needs_its_barrier() -> None:
    y = np.zeros(64, np.uint32)

    def emit(thread, y, barrier=True) -> None:
        memory, word = ptx.shared_memory(256), ptx.registers("word", 1, "uint32")
        ptx.store_shared(memory + U32(thread) * U32(4), U32(thread))
        if barrier:
            ptx.sync_block()
        ptx.load_shared([word[0]], memory + U32(i32(63) - thread) * U32(4))
        store(y, word[0], thread)

    run(emit, y, threads=64)
    np.testing.assert_array_equal(y, np.arange(64)[::-1])
    with pytest.raises(PtxError, match=r"race|barrier"):
        run(lambda thread, y: emit(thread, y, barrier=False), y, threads=64)


def test_numbers_become_uint32() -> None:
    assert str(ptx.u32(3).ty.dtype) == "uint32"
    assert str(ptx.u32(tirx.const(3, "int32")).ty.dtype) == "uint32"
