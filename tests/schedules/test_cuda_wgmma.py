"""Attention of a warpgroup: 64 rows of queries over tiles of exact keys and values, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from cache_model import attention
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tqc.codec import fragments
from tqc.schedules.cuda_builder import blocks, i32, store, threads, when
from tqc.schedules.cuda_cores import tile_bytes, write_queries, write_side
from tqc.schedules.cuda_flash import HIDDEN, Scores
from tqc.schedules.cuda_ptx import fence_async, hold, shared_memory, sync_block, u32
from tqc.schedules.cuda_queries import scaled
from tqc.schedules.cuda_sides import exact_side
from tqc.schedules.cuda_wgmma import GROUP_ROWS, WARPS, GroupAttention

DIM, TILES = 32, 2


def run(scores: Scores, q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int, seen: int) -> tuple[np.ndarray, ...]:
    """(outputs [64, DIM], totals [64], tops [64]) of rows at positions start, start + 1, … over `seen` tokens."""
    needs_nvcc()
    pages = [
        np.stack([fragments.pack_exact(x[64 * i : 64 * i + 64], side) for i in range(TILES)])
        for x, side in ((k, "k"), (v, "v"))
    ]
    y, sums = np.zeros((GROUP_ROWS, DIM), np.float32), np.zeros((2, GROUP_ROWS), np.float32)
    size = tile_bytes(64, DIM)

    def emit(q, keys, values, y, sums) -> None:
        with blocks(1, 1, 1), threads(128) as thread:
            lane, warp = hold(thread & 31), hold(thread >> 5)
            memory = shared_memory(3 * size)
            keys_at, values_at = hold(memory + u32(size)), hold(memory + u32(2 * size))

            def value(row, dim):
                return scaled(q[row, dim], row < GROUP_ROWS, scores.query_factor)

            def turn(n: int):
                return tirx.EQ(warp, i32(n % WARPS))

            write_queries(memory, GROUP_ROWS, DIM, thread, 128, value)
            group = GroupAttention(scores, DIM, warp, lane, memory, GROUP_ROWS // 8, keys_at, values_at)
            group.begin()

            def visible(position, _m: int, n: int):
                query = start + group.row(0, n)
                known = tirx.all(position < seen, position <= query)
                return tirx.all(known, position > query - scores.window) if scores.window else known

            with T.serial(0, TILES) as i:
                base = hold(i * 64)
                sync_block()
                for side, array, at in (("k", keys, keys_at), ("v", values, values_at)):
                    exists = None if side == "k" else lambda token: base + token < seen
                    write_side(side, exact_side(array, (i,), DIM, lane), DIM, at, lane, turn, exists)
                fence_async()
                sync_block()
                group.look(DIM // 16, 4, base, visible, True)
                group.mix(DIM // 16, 4, transposed=False)
            group.finish()
            for n in range(2):
                row = group.row(0, n)
                for dim, x in group.outputs(0, n):
                    store(y, x, row, dim)
                with when(group.counts_sinks):
                    store(sums, group.total[n], 0, row)
                    store(sums, group.top[n], 1, row)

    kernel = interpreted({"wgmma": probe(emit, q, *pages, y, sums)}, "sm_90a", unwritten=["a3", "a4"])["wgmma"]
    kernel(q, *pages, y, sums)
    return y, *sums


def vectors(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float16)


@pytest.mark.parametrize("scores", [Scores(0.2), Scores(0.2, softcap=0.5), Scores(0.2, window=30)])
def test_rows_see_their_past(scores: Scores) -> None:
    start, seen = 40, 100
    q, k, v = vectors(64, 0), vectors(128, 1), vectors(128, 2)
    v[seen:] = np.nan  # nobody wrote these
    y, total, top = run(scores, q, k, v, start, seen)
    options = {"softcap": scores.softcap, "window": scores.window}
    for row in range(64):
        last = min(start + row, seen - 1)
        if scores.window and start + row - scores.window >= seen - 1:
            assert total[row] == 0
            assert (y[row] == 0).all()
            continue
        keys, values = (x[None, : last + 1].astype(np.float32) for x in (k, v))
        wanted = attention(
            q[None, row : row + 1].astype(np.float32), keys, values, start=start + row, scale=0.2, **options
        )
        np.testing.assert_allclose(y[row] / total[row], wanted[0, 0], atol=3e-3)
    assert (top > -50).all()


def test_rows_that_see_nothing() -> None:
    y, total, top = run(Scores(0.2), *(vectors(n, n) for n in (64, 128, 128)), start=-64, seen=100)
    assert (y == 0).all()
    assert (total == 0).all()
    assert (top == np.float32(HIDDEN)).all()
