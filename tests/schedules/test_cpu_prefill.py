from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import Sequences, compile_kernels

from tqc.codec.layout import CacheLayout

CASES = [
    ("avx512", CacheLayout(4, 4, 64, "tq1", "tq8", recent=32), {}),
    ("avx512", CacheLayout(6, 2, 80, "tq7", "tq2", recent=0), {"window": 100}),
    ("avx512", CacheLayout(4, 1, 96, "tq3", "tq6", sinks=0, recent=17), {"softcap": 5.0}),
    ("avx512", CacheLayout(8, 1, 128, "tq4", "tq5", recent=64, page=32), {"window": 40}),
    ("avx512", CacheLayout(2, 2, 64, "fp16", "fp32", recent=0, page=16, sinks=40), {}),
    ("avx2", CacheLayout(9, 3, 64, "tq4", "tq4", recent=32), {"softcap": 20.0}),
    ("portable", CacheLayout(4, 1, 64, "fp32", "tq3", recent=0), {"window": 70}),
    ("avx2", CacheLayout(2, 1, 64, "bf16", "bf16", recent=16, page=32), {}),
]


@pytest.mark.parametrize(("isa", "layout", "attributes"), CASES)
def test_attends_to_the_cache_and_to_the_chunk(isa: str, layout: CacheLayout, attributes: dict) -> None:
    scale = layout.head_dim**-0.5
    names = ("append", "decode", "prefill")
    kernels = compile_kernels(layout, isa, names, softmax_scale=scale, options={"prefill_rows": 96}, **attributes)
    run = Sequences(layout, kernels, batch=3, capacity=700, scale=scale, **attributes)
    calls = (
        ([5, 0, 130], "prefill"),
        ([1, 1, 1], "decode"),
        ([200, 3, 0], "prefill"),
        ([1, 1, 0], "decode"),
        ([70, 150, 1], "prefill"),
        ([1, 2, 65], "prefill"),
    )
    for new, kernel in calls:
        run.step(new, kernel)
    run.check()


@pytest.mark.parametrize("side", ["k", "v"])
def test_a_defect_reaches_no_earlier_query(side: str) -> None:
    layout = CacheLayout(4, 2, 64, "tq4", "tq4", recent=16, page=16)
    kernels = compile_kernels(layout, "avx512", ("append", "prefill"), softmax_scale=0.125)
    outputs = []
    for defect in (None, 20, 100):  # in a page of the cache, in the chunk
        run = Sequences(layout, kernels, batch=2, capacity=512, seed=3, scale=0.125)
        k, v = run.vectors(2, 60), run.vectors(2, 60)
        chunk_k, chunk_v = run.vectors(2, 90), run.vectors(2, 90)
        if defect == 20:
            (k if side == "k" else v)[1, 0, 20] = np.nan
        elif defect:
            (chunk_k if side == "k" else chunk_v)[1, 0, defect - 60] = np.nan
        run.extend([60, 60], k, v)
        outputs.append(run.step([89, 89], "prefill", chunk_k, chunk_v)[:, :, :89])
    clean, *broken = outputs
    for y, first in zip(broken, (0, 40), strict=True):
        assert np.isnan(y[1, :2, first:]).all()
        np.testing.assert_array_equal(y[1, :2, :first], clean[1, :2, :first])
        np.testing.assert_array_equal(y[0], clean[0])
        np.testing.assert_array_equal(y[1, 2:], clean[1, 2:])


@pytest.mark.parametrize(
    ("isa", "layout", "attributes"),
    [
        ("avx512", CacheLayout(6, 2, 64, "tq4", "tq3", recent=32, page=16), {"window": 40}),
        ("avx2", CacheLayout(8, 1, 80, "fp32", "fp16", recent=0, sinks=0), {}),
        ("portable", CacheLayout(4, 4, 64, "tq4", "tq4", recent=16), {"softcap": 5.0}),
    ],
)
def test_sink_logits_join_the_denominator(isa: str, layout: CacheLayout, attributes: dict) -> None:
    names = ("append", "prefill")
    kernels = compile_kernels(layout, isa, names, softmax_scale=0.3, sink_logits=True, **attributes)
    logits = np.resize(np.array([0.5, -80, 3, 60, -np.inf, 1], np.float32), layout.query_heads)
    run = Sequences(layout, kernels, batch=3, capacity=512, scale=0.3, sink_logits=logits, **attributes)
    for new in ([1, 100, 0], [150, 30, 3], [1, 0, 70]):
        run.step(new, "prefill")


@pytest.mark.parametrize(
    ("isa", "layout", "window"),
    [
        ("avx512", CacheLayout(6, 2, 64, "tq4", "tq4", recent=0, page=16, ring=4), 40),
        ("avx512", CacheLayout(4, 4, 64, "tq4", "tq3", recent=16, page=16, sinks=0, ring=3), 50),
        ("avx2", CacheLayout(8, 1, 80, "fp32", "fp16", recent=20, page=16, ring=2), 37),
        ("portable", CacheLayout(4, 1, 64, "tq3", "fp32", recent=128, page=64, ring=1), 100),
    ],
)
def test_a_window_far_behind_which_pages_are_overwritten(isa: str, layout: CacheLayout, window: int) -> None:
    """Chunks longer and shorter than the window, the ring and a page, in sequences of any length."""
    names = ("append", "decode", "prefill")
    kernels = compile_kernels(layout, isa, names, softmax_scale=0.2, window=window, options={"prefill_rows": 32})
    run = Sequences(layout, kernels, batch=3, capacity=1200, scale=0.2, window=window)
    for new in ([300, 5, 0], [33, 1, 90], [1, 70, 2], [250, 0, 17], [15, 16, 130]):
        run.step(new, "prefill")
        run.check()
        run.step([1, 1, 1], "decode")
