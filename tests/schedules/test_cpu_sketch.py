from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import follow_all_kernels, run_vectors

from tqc.codec import rotation, sketch
from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_sketch import TOKENS, Projection

# Sketches of what codes leave and of whole vectors, outliers apart, one to three chunks, on either side.
CASES = [
    ("avx512", CacheLayout(4, 2, 64, "tqp4", "tqp3", recent=16, page=32), {}),
    ("avx512", CacheLayout(4, 1, 80, "qjl2", "tqp2", recent=0, page=16, sinks=0), {"window": 100}),
    ("avx512", CacheLayout(2, 1, 128, "qjl3o", "tq3.5", recent=20), {"softcap": 20.0}),
    ("avx2", CacheLayout(2, 2, 64, "qjl1o", "tqp4", recent=16, page=16, ring=4), {"window": 50}),
    ("portable", CacheLayout(2, 1, 64, "qjl1", "tqp8", recent=16, page=32), {}),
]


@pytest.mark.parametrize(("isa", "layout", "attributes"), CASES)
def test_every_kernel_follows_the_codec(isa: str, layout: CacheLayout, attributes: dict) -> None:
    follow_all_kernels(isa, layout, **attributes)


@pytest.mark.parametrize(("isa", "dim"), [("avx512", 128), ("avx512", 240), ("avx2", 80), ("portable", 16)])
def test_a_projection_is_a_chunk_of_s(isa: str, dim: int) -> None:
    x = np.random.default_rng(0).standard_normal((dim, TOKENS), np.float32)
    wanted = rotation.matrix(dim, 12345, sketch.ROUNDS) @ x
    run_vectors(isa, lambda simd, flat: Projection(simd, dim, 12345).apply(flat), flat := x.ravel().copy())
    power = dim & -dim
    np.testing.assert_allclose(flat.reshape(x.shape) / power, wanted, atol=1e-5)
