"""Sketches on CUDA: what append stores, emulated on the CPU, against the codec."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, cuda_layout, emulated

from tqc.codec.fragments import scale_order
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_append import make_append


@pytest.mark.parametrize(
    ("layout", "reverse"),
    [
        (cuda_layout(1, 1, 256, "qjl1o", "tqp2", sinks=0, recent=0), False),  # 8 tokens at a time; 240 = 16·15
        (cuda_layout(1, 1, 80, "tqp3", "tqp8", sinks=2, recent=16), True),
    ],
)
def test_signs_and_norms_are_those_of_the_codec(layout: CacheLayout, reverse: bool) -> None:
    run = CudaSequences(
        layout, emulated({"append": make_append(layout, dtype="float16")}, reverse=reverse), batch=2, capacity=256
    )
    for new_len in ([150, 90], [1, 33]):
        run.append(*(run.vectors(1, max(new_len) + 1) for _ in "kv"), np.array(new_len, np.int32))
        run.length += np.array(new_len, np.int32)
        run.check()


def test_what_cannot_be_kept_is_nan_and_nothing_left_is_zero() -> None:
    layout = cuda_layout(1, 1, 32, "qjl1", "tqp2", sinks=0, recent=0)
    kernels = emulated({"append": make_append(layout, dtype="float32")})
    run = CudaSequences(layout, kernels, batch=1, capacity=64, dtype="float32")
    k, v = run.vectors(1, 16), run.vectors(1, 16)
    k[0, 0, 3, 5], v[0, 0, 7, 0] = np.inf, 3e38
    k[0, 0, 4] = v[0, 0, 4] = 0
    run.append(k, v, np.array([16], np.int32))
    page = run.table[0, 0]
    token = np.argsort(scale_order())[:16]
    k_scale, v_scale = run.state["k_scale"][page, 0][token], run.state["v_scale"][page, 0].reshape(2, 64)[:, token]
    assert np.flatnonzero(np.isnan(k_scale)).tolist() == [3]
    assert np.isnan(v_scale).all(axis=0).nonzero()[0].tolist() == [7]
    assert (k_scale[4], *v_scale[:, 4]) == (0, 0, 0)
    assert np.isfinite(np.delete(v_scale, 7, axis=1)).all()
