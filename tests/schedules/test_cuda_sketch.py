"""Sketches on CUDA: what append stores, emulated on the CPU, against the codec."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, emulated

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_append import make_append


@pytest.mark.parametrize(
    ("layout", "reverse"),
    [
        (CacheLayout(1, 1, 256, "qjl1o", "tqp2", sinks=0, recent=0, page=32), False),  # 8 tokens at a time; 240 = 16·15
        (CacheLayout(1, 1, 80, "tqp3", "tqp8", sinks=2, recent=16, page=16), True),
    ],
)
def test_signs_and_norms_are_those_of_the_codec(layout: CacheLayout, reverse: bool) -> None:
    run = CudaSequences(layout, emulated({"append": make_append(layout)}, reverse=reverse), batch=2, capacity=128)
    for new_len in ([70, 40], [1, 33]):
        run.append(*(run.vectors(1, max(new_len) + 1) for _ in "kv"), np.array(new_len, np.int32))
        run.length += np.array(new_len, np.int32)
        run.check()


def test_what_cannot_be_kept_is_nan_and_nothing_left_is_zero() -> None:
    layout = CacheLayout(1, 1, 32, "qjl1", "tqp2", sinks=0, recent=0, page=16)
    run = CudaSequences(layout, emulated({"append": make_append(layout)}), batch=1, capacity=32)
    k, v = run.vectors(1, 16), run.vectors(1, 16)
    k[0, 0, 3, 5], v[0, 0, 7, 0] = np.inf, 3e38
    k[0, 0, 4] = v[0, 0, 4] = 0
    run.append(k, v, np.array([16], np.int32))
    page = run.table[0, 0]
    k_scale, v_scale = run.state["k_scale"][page, 0], run.state["v_scale"][page, 0].reshape(2, 16)
    assert np.flatnonzero(np.isnan(k_scale)).tolist() == [3]
    assert np.isnan(v_scale).all(axis=0).nonzero()[0].tolist() == [7]
    assert (k_scale[4], *v_scale[:, 4]) == (0, 0, 0)
    assert np.isfinite(np.delete(v_scale, 7, axis=1)).all()
