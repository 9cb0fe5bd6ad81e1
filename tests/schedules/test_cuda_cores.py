"""Core matrices: where each number of queries, keys and values goes."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted
from tvm import tirx

from tqc.codec import fragments
from tqc.codec.form import form
from tqc.codec.page_codec import decode_page, encode_page
from tqc.schedules.cuda_builder import blocks, i32, store, threads
from tqc.schedules.cuda_copies import copy_block
from tqc.schedules.cuda_cores import columns, descriptor, tile_bytes, write_queries, write_side
from tqc.schedules.cuda_flash import load_words
from tqc.schedules.cuda_ptx import commit_copies, hold, shared_memory, sync_block, u32, wait_copies
from tqc.schedules.cuda_sides import CodedPages, Tables, exact_side, page_bytes

RNG = np.random.default_rng(3)


def written(write, rows: int, dims: int, *arrays: np.ndarray) -> np.ndarray:
    """The numbers in shared memory after `write(address, lane, warp, thread, buffers)` of two warps, as float16."""
    needs_nvcc()
    size = tile_bytes(rows, dims)
    y = np.zeros(size // 4, np.uint32)

    def emit(*buffers) -> None:
        with blocks(1, 1, 1), threads(64) as thread:
            address = shared_memory(size + 8192)
            write(address, hold(thread & 31), hold(thread >> 5), thread, buffers[:-1])
            sync_block()
            for n in range(0, size // 4, 64):
                store(buffers[-1], load_words(address + u32(thread + n) * u32(4), 1)[0], thread + n)

    kernels = interpreted({"cores": probe(emit, *arrays, y)}, "sm_90a", unwritten=[f"a{len(arrays)}"])
    kernels["cores"](*arrays, y)
    return y.view(np.float16)


def by_turns(warp):
    """Columns that a warp does."""
    return lambda n: tirx.EQ(warp, i32(n % 2))


def cores(matrix: np.ndarray) -> np.ndarray:
    """A matrix [rows, K] as `[K / 8, rows / 8]` core matrices of eight rows, one behind the other."""
    rows, k = matrix.shape
    return matrix.reshape(rows // 8, 8, k // 8, 8).transpose(2, 0, 1, 3).reshape(-1)


def test_queries_lie_by_rows() -> None:
    q = RNG.standard_normal((24, 48)).astype(np.float32)

    def write(address, _lane, _warp, thread, buffers) -> None:
        write_queries(address, 24, 48, thread, 64, lambda row, dim: buffers[0][row, dim])

    np.testing.assert_array_equal(written(write, 24, 48, q), cores(q.astype(np.float16)))


@pytest.mark.parametrize("side", ["k", "v"])
def test_exact_tokens_and_zeros_for_values_that_do_not_exist(side: str) -> None:
    """Values lie with tokens along the 16 bytes."""
    x = RNG.standard_normal((64, 32)).astype(np.float16)
    page = fragments.pack_exact(x, side)[None]

    def write(address, lane, warp, _thread, buffers) -> None:
        tile = exact_side(buffers[0], (i32(0),), 32, lane)
        exists = (lambda token: token < 41) if side == "v" else None
        assert columns(tile) == 2
        write_side(side, tile, 32, address, lane, by_turns(warp), exists)

    found = written(write, 64, 32, page)
    if side == "v":
        x[41:] = 0
    np.testing.assert_array_equal(found, cores(x if side == "k" else np.ascontiguousarray(x.T)))


@pytest.mark.parametrize(
    ("side", "name", "coded"),
    [("k", "tq4", 48), ("v", "tq2", 48), ("v", "16@3/32@2", 48), ("k", "16@5/32@0", 16), ("v", "16@0/32@4", 48)],
)
def test_codes_are_multiplied_by_their_scales(side: str, name: str, coded: int) -> None:
    """Columns without codes are zeros where others follow."""
    stored = form(name, 48)
    z = RNG.standard_normal((64, 48)).astype(np.float32)
    elements, scales = encode_page(stored, side, z, order="fragments")
    wanted = decode_page(stored, side, elements, scales, 64, "fragments")
    page = np.concatenate([elements.view(np.uint32), scales.view(np.uint32)])

    def write(address, lane, warp, thread, buffers) -> None:
        landing = hold(address + u32(tile_bytes(64, coded)))
        tables = Tables.fill(hold(landing + u32(page_bytes(stored))), (stored,), thread, 64)
        copy_block(landing, page_bytes(stored), buffers[0], (), thread, 64)
        commit_copies()
        wait_copies(0)
        sync_block()
        tile = CodedPages(side, stored, tables, lane).at(landing)
        assert columns(tile) == coded // 16
        write_side(side, tile, coded, address, lane, by_turns(warp))

    found = written(write, 64, coded, page)
    matrix = np.ascontiguousarray(wanted[:, :coded] if side == "k" else wanted[:, :coded].T)
    np.testing.assert_allclose(found.astype(np.float32), cores(matrix), atol=8e-3 * np.abs(wanted).max())


def test_a_descriptor_s_fields() -> None:
    found = np.zeros(1, np.uint64)

    def emit(y) -> None:
        with blocks(1, 1, 1), threads(1):
            store(y, descriptor(u32(0x2A450), 1024, 128), 0)

    needs_nvcc()
    interpreted({"descriptor": probe(emit, found)}, "sm_90a", unwritten=["a0"])["descriptor"](found)
    assert int(found[0]) == 0x2A450 >> 4 | 1024 >> 4 << 16 | 128 >> 4 << 32
