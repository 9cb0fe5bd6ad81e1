"""The cache's parameters in a CUDA kernel, and its arithmetic of lengths on the device, against the layout's own."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import run_probe
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import build_kernel, dimension, phase, store
from tqc.schedules.cuda_cache import Cache

PAGE = 32


@pytest.mark.parametrize("recent", [0, 1, 50])
@pytest.mark.parametrize("sinks", [0, 5])
def test_regions_follow_from_the_length_as_in_the_layout(recent: int, sinks: int) -> None:
    layout = CacheLayout(4, 2, 64, recent=recent, sinks=sinks, page=PAGE)
    lengths = np.arange(200, dtype=np.int32)
    found = np.full((4, 200), -1, np.int32)

    def emit(source, target) -> None:
        cache = Cache(layout, None, None, None, {})
        with phase(200, 64) as i:
            length = T.Bind(source[i])
            coded = cache.coded(length)
            values = cache.after_sinks(length), coded, cache.pages(coded), cache.ring_page(cache.pages(length))
            for row, value in enumerate(values):
                store(target, value, row, i)

    run_probe(emit, lengths, found)
    coded = np.array([layout.coded(int(length)) for length in lengths])
    np.testing.assert_array_equal(found[0], np.maximum(lengths - sinks, 0))
    np.testing.assert_array_equal(found[1], coded)
    np.testing.assert_array_equal(found[2], -(-coded // PAGE))
    np.testing.assert_array_equal(found[3], -(-lengths // PAGE) % layout.tail_pages)


def test_a_page_of_the_pool_is_the_entry_of_the_sequence() -> None:
    table = np.random.default_rng(0).permutation(15).reshape(3, 5).astype(np.int32)
    found = np.zeros((3, 5), np.int64)

    def emit(pages, target) -> None:
        cache = Cache(CacheLayout(4, 2, 64), None, None, pages, {})
        with phase(15, 32) as i:
            (page,) = cache.place(i // 5, i % 5)
            assert page.ty.dtype == "int64"
            store(target, page, i // 5, i % 5)

    run_probe(emit, table, found)
    np.testing.assert_array_equal(found, table)


def test_a_page_of_a_ring_is_a_slot_of_the_sequence() -> None:
    codes, found = np.zeros((3, 4, 2, 8), np.uint16), np.zeros((2, 3, 10), np.int64)

    def emit(codes, target) -> None:
        cache = Cache(CacheLayout(4, 2, 64, ring=4), None, None, None, {"k_codes": codes})
        with phase(30, 32) as i:
            place = cache.place(i // 10, i % 10)
            for row, index in enumerate(place):
                assert index.ty.dtype == "int64"
                store(target, index, row, i // 10, i % 10)

    run_probe(emit, codes, found)
    np.testing.assert_array_equal(found[0], np.arange(3)[:, None].repeat(10, 1))
    np.testing.assert_array_equal(found[1], np.arange(10)[None].repeat(3, 0) % 4)


@pytest.mark.parametrize(
    "layout",
    [
        CacheLayout(4, 2, 64, "tq4", "tq3"),
        CacheLayout(4, 1, 80, "fp16", "tq7", sinks=0, recent=0, page=PAGE),
        CacheLayout(2, 2, 64, "tq1", "fp32", sinks=20, exact_dtype="float16"),
        CacheLayout(2, 2, 64, "tq1", "fp32", ring=2),
        CacheLayout(2, 2, 64, "tq1", "fp16", order="fragments", exact_dtype="float16"),
    ],
)
def test_the_parameters_are_those_of_the_layout(layout: CacheLayout) -> None:
    caches, batch = [], dimension("batch")
    kernel = build_kernel("declared", lambda: caches.append(Cache.declare(layout, batch)))
    (cache,) = caches
    specs = layout.tensors()
    assert [str(name.name) for name in kernel.params] == [
        "length",
        "new_len",
        "page_table",
        *(spec.name for spec in specs),
    ]
    assert list(cache.state) == [spec.name for spec in specs]
    for buffer in (cache.length, cache.new_len, cache.page_table):
        assert str(buffer.dtype) == "int32"
        assert buffer.shape[0].same_as(batch)
    for spec in specs:
        buffer = cache.state[spec.name]
        assert str(buffer.dtype) == spec.dtype
        shape = tuple(size.name if isinstance(size, type(batch)) else int(size) for size in buffer.shape)
        assert shape == tuple("ring" if dim == f"ring{layout.ring}" else dim for dim in spec.shape)
    assert cache.state["tail_k"].shape[0].same_as(batch)
