"""Tiles of a sequence, dealt out to workers."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import cuda_layout, run_probe
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from tqc.schedules.cuda_builder import i32, store, threads
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_ptx import hold
from tqc.schedules.cuda_share import Regions, Worker

LENGTHS = np.array([0, 1, 4, 5, 131, 196, 197, 500, 1000], np.int32)


def dealt(layout, window: int, workers: int) -> np.ndarray:
    """How often each tile is taken, int [length, region, page]; region 0 coded, 1 tail, 2 sinks."""
    found = np.zeros((len(LENGTHS), workers, 3, 20), np.int32)

    def emit(lengths, target) -> None:
        cache = Cache(layout, None, None, None, {})
        with threads(len(LENGTHS) * workers) as thread:
            b, index = hold(tirx.floordiv(thread, i32(workers))), hold(tirx.floormod(thread, i32(workers)))
            held = hold(lengths[b])
            regions = Regions.of(cache, held, hold(held - window) if window else i32(0))
            worker = Worker(index, hold(i32(workers)))
            for number, region in enumerate((regions.coded, regions.tail, regions.sinks)):
                start, count = worker.share(region)
                with T.serial(0, count) as i:
                    page = hold(worker.page(region, start, i))
                    store(target, target[b, index, number, page] + 1, b, index, number, page)

    run_probe(emit, LENGTHS, found)
    return found.sum(axis=1)


@pytest.mark.parametrize("workers", [1, 3, 16])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("options", [{}, {"recent": 0}, {"sinks": 0, "recent": 64}])
def test_every_tile_with_a_visible_token_is_taken_once(options: dict, window: int, workers: int) -> None:
    layout = cuda_layout(2, 1, 64, **options)
    found = dealt(layout, window, workers)
    assert found.max() <= 1
    for b, length in enumerate(LENGTHS):
        coded = layout.coded(int(length))
        wanted = np.zeros((3, 20), int)
        for position in range(max(0, int(length) - window) if window else 0, int(length)):
            t = position - layout.sinks
            region = 2 if t < 0 else 0 if t < coded else 1
            wanted[region, max(t, 0) // 64] = 1
        np.testing.assert_array_equal(found[b, :2], wanted[:2])
        assert found[b, 2, 0] == (layout.sinks > 0 and length > 0)  # looked at even when out of sight
