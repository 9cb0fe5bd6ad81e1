"""Bands on CUDA: what append stores, emulated on the CPU, against the codec."""

from __future__ import annotations

import numpy as np
from cuda_driver import CudaSequences, cuda_layout, emulated

from tqc.codec.fragments import scale_order
from tqc.schedules.cuda_append import make_append


def test_bands_share_a_norm_or_have_their_own() -> None:
    layout = cuda_layout(1, 1, 80, "16@5+32@0+32@2", "tq3.5", sinks=0, recent=0)
    kernels = emulated({"append": make_append(layout, dtype="float16")}, reverse=True)
    run = CudaSequences(layout, kernels, batch=2, capacity=128)
    run.append(*(run.vectors(1, 101) for _ in "kv"), np.array([100, 17], np.int32))
    run.length += np.array([100, 17], np.int32)
    run.check()


def test_a_group_that_cannot_be_kept_does_not_touch_the_other() -> None:
    layout = cuda_layout(1, 1, 64, "tq2.5", "tq3.5", sinks=0, recent=0)
    kernels = emulated({"append": make_append(layout, dtype="float32")})
    run = CudaSequences(layout, kernels, batch=1, capacity=64, dtype="float32")
    k, v = run.vectors(1, 16), run.vectors(1, 16)
    k[0, 0, 3, 5], v[0, 0, 7, 30] = np.nan, 3e38
    k[0, 0, 4, :16] = v[0, 0, 5, 16:] = 0
    run.append(k, v, np.array([16], np.int32))
    token = np.argsort(scale_order())[:16]
    k_scale, v_scale = (run.state[f"{side}_scale"][run.table[0, 0], 0].reshape(2, 64)[:, token] for side in "kv")
    assert np.argwhere(np.isnan(k_scale)).tolist() == [[0, 3]]
    assert np.argwhere(np.isnan(v_scale)).tolist() == [[1, 7]]
    assert np.argwhere(k_scale == 0).tolist() == [[0, 4]]
    assert np.argwhere(v_scale == 0).tolist() == [[1, 5]]
