from __future__ import annotations

import numpy as np
import pytest
import tvm_ffi

from tqc.artifact import StateTensor
from tqc.codec.layout import CacheLayout
from tqc.runtime.kv_bytes import measure, nbytes


def state_of(layout: CacheLayout, batch: int, pages: int):
    sizes = {"batch": batch, "pages": pages}
    specs = tuple(StateTensor(name=s.name, shape=s.shape, dtype=s.dtype) for s in layout.tensors())
    tensors = [tvm_ffi.from_dlpack(np.zeros([sizes.get(d, d) for d in s.shape], s.dtype)) for s in specs]
    return specs, tensors


@pytest.mark.parametrize(
    ("k", "v", "per_vector_pair"),
    [("tq4", "tq4", 34 + 34), ("tq4", "tq3", 34 + 26), ("tq8", "tq1", 66 + 10), ("fp16", "fp16", 256)],
)
def test_bytes_of_pages_are_those_of_the_scheme(fake, k, v, per_vector_pair):
    layout = CacheLayout(9, 3, 64, k, v)
    specs, tensors = state_of(layout, batch=2, pages=7)
    base = fake.make_manifest()
    layer = base.layers[0].model_copy(update={"query_heads": 9, "kv_heads": 3, "head_dim": 64, "k": k, "v": v})
    cache = base.cache.model_copy(update={"sinks": 4, "recent": 128, "page": 64, "state": (specs, specs)})
    manifest = base.model_copy(update={"layers": (layer, layer), "cache": cache})
    sizes = measure(manifest, [tensors, tensors], [4 + 128 + 130, 100])
    assert sizes.coded_tokens == 128
    assert sizes.pages == 2 * 3 * 128 * per_vector_pair
    assert sizes.pages_allocated == 2 * 3 * 7 * 64 * per_vector_pair
    assert sizes.page_compression == 256 / per_vector_pair
    assert sizes.fp16 == 362 * 2 * 3 * 256
    assert sizes.sinks == 2 * 2 * 2 * 3 * 16 * 64 * 4
    assert sizes.tail == 2 * 2 * 2 * 3 * layout.tail_pages * 64 * 64 * 4
    assert sizes.used == sizes.sinks + sizes.tail + sizes.pages
    assert sizes.compression == sizes.fp16 / sizes.used


def test_bytes_of_a_tensor():
    assert nbytes(tvm_ffi.from_dlpack(np.zeros((3, 5), np.float16))) == 30
