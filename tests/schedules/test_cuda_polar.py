"""PolarQuant pages on CUDA, emulated on the CPU: what append stores, against the codec."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from cuda_driver import CudaSequences, cuda_layout, emulated

from tqc.codec.fragments import scale_order
from tqc.codec.page_codec import encode_page
from tqc.schedules.cuda_append import make_append

LAYOUT = cuda_layout(1, 1, 48, "polar", "polar-plain", sinks=0, recent=0)


@functools.cache
def kernels() -> dict[str, Callable]:
    return emulated({"append": make_append(LAYOUT, dtype="float32")}, reverse=True)


def appended(k: np.ndarray, v: np.ndarray) -> dict[str, np.ndarray]:
    """The page of 64 tokens k, v [1, 1, 64, 48]."""
    run = CudaSequences(LAYOUT, kernels(), batch=1, capacity=64, dtype="float32")
    run.append(k, v, np.array([64], np.int32))
    return {name: run.state[name][run.table[0, 0], 0] for name in ("k_codes", "k_scale", "v_codes", "v_scale")}


def test_angles_and_radii_are_those_of_the_codec_on_every_axis_and_in_every_quarter() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 64, 48)).astype(np.float16).astype(np.float32)
    x[:, 2] = 0
    x[:, 3, ::2] = 0
    x[:, 4, 1::2] = 0
    x[:, 5, 16:32] = 0
    page = appended(*(part[None, None] for part in x))
    for side, vectors in zip("kv", x, strict=True):
        units, scales = encode_page(LAYOUT.form(side), side, vectors, order="fragments")
        np.testing.assert_array_equal(page[f"{side}_codes"], units)
        np.testing.assert_allclose(page[f"{side}_scale"].astype(np.float32), scales.astype(np.float32), rtol=1e-3)


def test_a_block_that_cannot_be_kept_has_the_radius_nan_and_no_other_does() -> None:
    x = np.random.default_rng(1).standard_normal((1, 1, 64, 48)).astype(np.float32)
    x[0, 0, 3, 17], x[0, 0, 9, 0], x[0, 0, 11, 40] = np.nan, 3e38, -np.inf
    page = appended(x, x)
    for side in "kv":
        radii = page[f"{side}_scale"].reshape(3, 64)[:, np.argsort(scale_order())]
        assert np.argwhere(np.isnan(radii)).tolist() == [[0, 9], [1, 3], [2, 11]]
        assert np.isfinite(np.delete(radii, [9, 64 + 3, 128 + 11])).all()
