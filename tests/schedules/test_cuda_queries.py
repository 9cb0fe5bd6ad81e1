"""Queries as operand B, rotated on the way or not."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import rotation
from tqc.schedules.cuda_builder import blocks, store, threads
from tqc.schedules.cuda_ptx import hold, shared_memory, sync_block
from tqc.schedules.cuda_queries import Queries, can_turn, query_bytes, scaled
from tqc.schedules.cuda_rotate import Turn


def operands(q: np.ndarray, turn: Turn | None = None) -> np.ndarray:
    """What a warp reads of rows q [16, D], the last three of which are none: [row, dim] again."""
    needs_nvcc()
    dim = q.shape[1]
    y = np.zeros((dim // 16, 2, 32, 2), np.uint32)

    def emit(q, y) -> None:
        with blocks(1, 1, 1), threads(64) as thread:
            memory = shared_memory(query_bytes(dim, 2))
            queries = Queries(memory, dim, 2, lambda row, d: scaled(q[row, d], row < 13, 0.5))
            lane, warp = hold(thread & 31), hold(thread >> 5)
            if turn is None:
                queries.write(thread, 64)
            else:
                queries.write_turned(turn, lane, warp, 2)
            sync_block()
            for column in range(dim // 16):
                words = queries.operand(warp, lane)(column, 0)  # each warp reads eight of the rows
                for n in range(2):
                    store(y, words[n], column, warp, lane, n)

    interpreted({"queries": probe(emit, q, y)}, "sm_80", unwritten=["a1"])["queries"](q, y)
    found, lane = np.zeros((16, dim), np.float16), np.arange(32)
    halves = y.view(np.float16).reshape(dim // 16, 2, 32, 4)
    for column in range(dim // 16):
        for eight in range(2):
            dims = 16 * column + 2 * (lane % 4)[:, None] + np.array([0, 1, 8, 9])
            found[(8 * eight + lane // 4)[:, None], dims] = halves[column, eight]
    return found


@pytest.mark.parametrize("dim", [48, 64])
def test_rows_are_there_and_others_are_zeros(dim: int) -> None:
    q = np.random.default_rng(0).standard_normal((16, dim)).astype(np.float16)
    found = operands(q)
    np.testing.assert_array_equal(found[:13], (q[:13].astype(np.float32) / 2).astype(np.float16))
    assert (found[13:] == 0).all()


@pytest.mark.parametrize(("dim", "rounds"), [(64, 2), (128, 1), (256, 1)])
def test_rows_are_rotated_and_rounded_once(dim: int, rounds: int) -> None:
    q = np.random.default_rng(1).standard_normal((16, dim)).astype(np.float32)
    found = operands(q, Turn(2, rounds))
    wanted = rotation.rotate(q[:13] / 2, 2, rounds).astype(np.float16)
    np.testing.assert_array_equal(found[:13], wanted)
    assert (found[13:] == 0).all()


def test_head_dims_that_are_rotated_on_the_way() -> None:
    assert [dim for dim in (32, 48, 64, 80, 96, 128, 256, 512) if can_turn(dim)] == [64, 128, 256, 512]
    assert query_bytes(128, 2) == 2 * 16 * 128
