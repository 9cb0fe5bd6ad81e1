from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi

from tqc.artifact import StateTensor
from tqc.codec.layout import CacheLayout
from tqc.runtime.kv_bytes import measure, nbytes


def state_of(layout: CacheLayout, batch: int, pages: int):
    """State of a layer for sequences of at most `pages` pages."""
    specs = tuple(StateTensor(name=s.name, shape=s.shape, dtype=s.dtype) for s in layout.tensors())
    tensors = [tvm_ffi.from_dlpack(np.zeros(s.bind(batch, pages), s.dtype)) for s in specs]
    return specs, tensors


@pytest.mark.parametrize(
    ("k", "v", "per_vector_pair"),
    [("tq4", "tq4", 34 + 34), ("tq4", "tq3", 34 + 26), ("tq8", "tq1", 66 + 10), ("fp16", "fp16", 256)],
)
def test_bytes_of_pages_are_those_of_the_scheme(fake, k, v, per_vector_pair):
    layout = CacheLayout(9, 3, 64, k, v)
    specs, tensors = state_of(layout, batch=2, pages=4)
    base = fake.make_manifest()
    layer = base.layers[0].model_copy(update={"query_heads": 9, "kv_heads": 3, "head_dim": 64, "k": k, "v": v})
    cache = base.cache.model_copy(update={"sinks": 4, "recent": 128, "page": 64, "state": (specs, specs)})
    manifest = base.model_copy(update={"layers": (layer, layer), "cache": cache})
    sizes = measure(manifest, [tensors, tensors], [4 + 128 + 130, 100])
    assert sizes.coded_tokens == 128
    assert sizes.pages == 2 * 3 * 128 * per_vector_pair
    assert sizes.pages_allocated == 2 * 3 * 8 * 64 * per_vector_pair
    assert sizes.page_compression == 256 / per_vector_pair
    assert sizes.fp16 == 362 * 2 * 3 * 256
    assert sizes.sinks == 2 * 2 * 2 * 3 * 16 * 64 * 4
    assert sizes.tail == 2 * 2 * 2 * 3 * layout.tail_pages * 64 * 64 * 4
    assert sizes.used == sizes.sinks + sizes.tail + sizes.pages
    assert sizes.compression == sizes.fp16 / sizes.used


@pytest.mark.parametrize(("pages", "slots"), [(40, 3), (2, 2)])
def test_a_window_counts_only_the_pages_it_keeps(fake, pages, slots):
    """A layer that sees every token beside one with a ring of three pages, whose slots are no more than pages exist."""
    layouts = [CacheLayout(9, 3, 64), CacheLayout(9, 3, 64, ring=3)]
    states = [state_of(layout, batch=2, pages=pages) for layout in layouts]
    base = fake.make_manifest()
    layer = base.layers[0].model_copy(update={"query_heads": 9, "kv_heads": 3, "head_dim": 64})
    cache = base.cache.model_copy(update={"sinks": 4, "recent": 128, "page": 64, "state": tuple(s for s, _ in states)})
    manifest = base.model_copy(update={"layers": (layer, layer), "cache": cache})
    one = 3 * 64 * (34 + 34)
    lengths = [4 + 128 + 64 * min(pages, 10), 4 + 128 + 64]
    sizes = measure(manifest, [tensors for _, tensors in states], lengths)
    assert sizes.page == 2 * one
    assert sizes.pages_allocated == 2 * (pages + slots) * one
    assert sizes.pages == (min(pages, 10) + 1 + slots + 1) * one
    assert sizes.sinks + sizes.tail == 2 * (2 * 2 * 3 * 64 * 4) * (16 + 3 * 64)


def test_bytes_of_a_tensor():
    assert nbytes(tvm_ffi.from_dlpack(np.zeros((3, 5), np.float16))) == 30
