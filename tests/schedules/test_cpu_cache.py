from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import run_vectors
from tvm.script.ir_builder import tirx as T

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_cache import Cache
from tqc.schedules.cpu_simd import i64, let


@pytest.mark.parametrize("recent", [0, 1, 50])
@pytest.mark.parametrize("sinks", [0, 5])
def test_regions_follow_from_the_length_as_in_the_layout(recent: int, sinks: int) -> None:
    layout = CacheLayout(4, 2, 64, recent=recent, sinks=sinks, page=32)
    lengths = np.arange(200, dtype=np.int64)
    found = np.zeros((200, 3), np.int64)

    def kernel(simd, source, target):
        cache = Cache(layout, None, None, None, {})
        with T.serial(i64(200)) as i:
            length = let(source[i])
            coded = cache.coded(length)
            T.buffer_store(target, coded, [i, 0])
            T.buffer_store(target, cache.pages(coded), [i, 1])
            T.buffer_store(target, cache.ring_page(cache.pages(length)), [i, 2])

    run_vectors("avx512", kernel, lengths, found)
    coded = np.array([layout.coded(int(length)) for length in lengths])
    np.testing.assert_array_equal(found[:, 0], coded)
    np.testing.assert_array_equal(found[:, 1], -(-coded // 32))
    np.testing.assert_array_equal(found[:, 2], -(-lengths // 32) % layout.tail_pages)


def test_a_page_of_a_ring_is_a_slot_of_the_sequence() -> None:
    codes, found = np.zeros((3, 4, 2, 8), np.uint16), np.zeros((2, 3, 10), np.int64)

    def kernel(simd, codes, target):
        cache = Cache(CacheLayout(4, 2, 64, ring=4), None, None, None, {"k_codes": codes})
        with T.serial(i64(3)) as b, T.serial(i64(10)) as page:
            for row, index in enumerate(cache.place(b, page)):
                T.buffer_store(target, index, [row, b, page])

    run_vectors("avx512", kernel, codes, found)
    np.testing.assert_array_equal(found[0], np.arange(3)[:, None].repeat(10, 1))
    np.testing.assert_array_equal(found[1], np.arange(10)[None].repeat(3, 0) % 4)
