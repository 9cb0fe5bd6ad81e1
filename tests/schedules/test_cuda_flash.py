"""Attention of one warp: rows of queries over tiles, against NumPy."""

from __future__ import annotations

import math

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
from tqc.schedules.cuda_flash import HIDDEN, Scores, Tile, WarpAttention
from tqc.schedules.cuda_ptx import hold, shared_memory, sync_block
from tqc.schedules.cuda_queries import Queries, query_bytes, scaled
from tqc.schedules.cuda_sides import exact_side

DIM, TILES, ROWS = 32, 3, 16


def run(scores: Scores, q: np.ndarray, k: np.ndarray, v: np.ndarray, start: int, seen: int) -> tuple[np.ndarray, ...]:
    """(outputs [16, DIM], totals [16], tops [16]) of rows at positions start, start + 1, … over `seen` tokens."""
    needs_nvcc()
    pages = [
        np.stack([fragments.pack_exact(x[64 * i : 64 * i + 64], side) for i in range(TILES)])
        for x, side in ((k, "k"), (v, "v"))
    ]
    y, sums = np.zeros((ROWS, DIM), np.float32), np.zeros((2, ROWS), np.float32)

    def emit(q, keys, values, y, sums) -> None:
        with blocks(1, 1, 1), threads(32) as lane:
            memory = shared_memory(query_bytes(DIM, 2))
            rows = Queries(memory, DIM, 2, lambda row, d: scaled(q[row, d], row < ROWS, scores.query_factor))
            rows.write(lane, 32)
            sync_block()
            warp = WarpAttention(scores, 2, DIM // 16, lane, rows.operand(i32(0), lane))
            warp.begin()

            def visible(position, m: int, n: int):
                query = hold(i32(start + 8 * m + n) + warp.t * 2)
                known = tirx.all(position < seen, position <= query)
                return tirx.all(known, position > query - scores.window) if scores.window else known

            with T.serial(0, TILES) as i:
                base = hold(i * 64)
                exists = lambda token: base + token < seen  # noqa: E731
                sides = exact_side(keys, (i,), DIM, lane), exact_side(values, (i,), DIM, lane, exists=exists)
                warp.add(Tile(*sides, base), visible)
            warp.finish()
            for m in range(2):
                for n in range(4):
                    row = warp.t * 2 + (8 * m + n % 2)
                    for column in range(DIM // 16):
                        store(y, warp.output(column, m, n), row, warp.g + (16 * column + 8 * (n // 2)))
                    if n < 2:
                        with when(tirx.EQ(warp.g, i32(0))):
                            store(sums, warp.total[2 * m + n], 0, row)
                            store(sums, warp.top[2 * m + n], 1, row)

    arrays = [q, *pages, y, sums]
    interpreted({"flash": probe(emit, *arrays)}, "sm_80", unwritten=["a3", "a4"])["flash"](*arrays)
    return y / np.where(sums[:1].T > 0, sums[:1].T, 1), sums[0], sums[1]


def vectors(seed: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, DIM)).astype(np.float16)


@pytest.mark.parametrize(
    ("options", "start", "seen"), [({}, 150, 170), ({"softcap": 3.0}, 20, 70), ({"window": 30}, 90, 192)]
)
def test_rows_see_what_they_may(options: dict, start: int, seen: int) -> None:
    q, k, v = vectors(0, ROWS), vectors(1, 64 * TILES), vectors(2, 64 * TILES)
    k[seen:] = v[seen:] = np.nan  # memory that nobody wrote
    found, totals, _ = run(Scores(0.3, **options), q, k, v, start, seen)
    wanted = np.stack(
        [
            attention(q[None, r : r + 1], k[None, :seen], v[None, :seen], start=start + r, scale=0.3, **options)[0, 0]
            for r in range(ROWS)
        ]
    )
    np.testing.assert_allclose(found, wanted, atol=4e-3)
    assert (totals >= 0.99).all()


def test_rows_that_see_nothing_stay_empty() -> None:
    q, k, v = vectors(0, ROWS), vectors(1, 64 * TILES), vectors(2, 64 * TILES)
    _, totals, tops = run(Scores(0.3), q, k, v, -8, 192)
    assert (totals[:8] == 0).all()
    assert (tops[:8] == np.float32(HIDDEN)).all()
    assert totals[8] == pytest.approx(1.0)


def test_scores_are_in_base_2() -> None:
    assert Scores(0.5).query_factor == pytest.approx(0.5 / math.log(2))
    assert Scores(0.5, softcap=4.0).query_factor == 0.125
