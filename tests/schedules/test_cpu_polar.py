from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import Sequences, compile_kernels, follow_all_kernels

from tqc.codec.layout import CacheLayout
from tqc.codec.page_codec import encode_page

CASES = [
    ("avx512", CacheLayout(4, 2, 64, "polar", "polar", recent=16, page=32), {}),
    ("avx512", CacheLayout(2, 1, 128, "polar-plain", "tqp3", recent=0, sinks=0), {"window": 100}),
    ("avx2", CacheLayout(2, 1, 80, "tq2.5", "polar", recent=16, page=16, ring=4), {"window": 50}),
    ("portable", CacheLayout(2, 1, 64, "polar", "fp16", recent=16, page=16), {"softcap": 20.0}),
]


@pytest.mark.parametrize(("isa", "layout", "attributes"), CASES)
def test_every_kernel_follows_the_codec(isa: str, layout: CacheLayout, attributes: dict) -> None:
    follow_all_kernels(isa, layout, **attributes)


def test_angles_in_the_middle_of_cells_have_the_codes_of_the_codec() -> None:
    """All around the circle, and along the axes, where signs of zeros decide."""
    layout = CacheLayout(1, 1, 32, "polar", "polar", sinks=0, recent=0, page=16)
    run = Sequences(layout, compile_kernels(layout, "avx512", ("append",)), batch=1, capacity=32)
    angle = (np.arange(16 * 16) + np.tile([0.3, 0.7], 128)) * (2 * np.pi / 256)
    x = np.zeros((1, 1, 16, 32), np.float32)
    x[0, 0, :, 0::2], x[0, 0, :, 1::2] = np.cos(angle).reshape(16, 16), np.sin(angle).reshape(16, 16)
    x *= np.repeat(np.random.default_rng(0).uniform(0.3, 3, (16, 16)), 2, axis=1)  # equal radii are on a threshold
    x[0, 0, 0, :16] = [1, 0, 0, 3, -2, 0, 0, -5, 1, -0.0, -0.0, 4, -3, -0.0, -0.0, -7]
    x[0, 0, 1, :16] = [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]
    run.extend([16], x, x)
    for side in "kv":
        codes, scales = encode_page(layout.form(side), side, x[0])
        page = run.table[0, 0]
        np.testing.assert_array_equal(run.state[f"{side}_codes"][page], codes)
        np.testing.assert_array_equal(run.state[f"{side}_scale"][page], scales)
