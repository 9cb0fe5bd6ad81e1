from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cpu_driver import Sequences, close, compile_kernels

from tqc.codec.layout import CacheLayout, ring_pages
from tqc.errors import TargetError

# Every width on K and on V, every ISA, head_dim and GQA group, page sizes, windows and caps.
CASES = [
    ("avx512", CacheLayout(4, 4, 64, "tq1", "tq8", recent=32), {}),
    ("avx512", CacheLayout(6, 2, 80, "tq2", "tq7", recent=0), {"window": 100}),
    ("avx512", CacheLayout(4, 1, 96, "tq3", "tq6", sinks=0, recent=17), {"softcap": 5.0}),
    ("avx512", CacheLayout(8, 1, 128, "tq4", "tq5", recent=64), {}),
    ("avx512", CacheLayout(3, 1, 256, "tq5", "tq4", page=32, recent=0, sinks=20), {"window": 10}),
    ("avx512", CacheLayout(24, 1, 64, "tq6", "tq3", page=16, recent=40), {}),
    ("avx512", CacheLayout(1, 1, 64, "tq7", "tq2", page=128, recent=0), {"softcap": 30.0, "window": 150}),
    ("avx512", CacheLayout(16, 2, 64, "tq8", "tq1", recent=1), {}),
    ("avx512", CacheLayout(6, 2, 64, "tq4", "tq3", recent=32, page=16), {"window": 90}),
    ("avx512", CacheLayout(4, 2, 80, "fp32", "fp16", recent=0, sinks=0), {}),
    ("avx512", CacheLayout(4, 2, 64, "tq4", "fp32", recent=32, exact_dtype="float16"), {}),
    ("avx2", CacheLayout(9, 3, 64, "tq4", "tq4", recent=32), {"softcap": 20.0}),
    ("avx2", CacheLayout(8, 1, 96, "tq6", "fp16", recent=0), {"window": 70}),
    ("portable", CacheLayout(4, 1, 80, "tq5", "tq7", recent=16), {"softcap": 20.0}),
    ("portable", CacheLayout(6, 2, 64, "fp16", "tq4", recent=0), {}),
]


@pytest.mark.parametrize(("isa", "layout", "attributes"), CASES)
def test_attends_to_what_the_cache_holds(isa: str, layout: CacheLayout, attributes: dict) -> None:
    """Four sequences start around the borders of the regions and cross them token by token."""
    scale = layout.head_dim**-0.5
    kernels = compile_kernels(layout, isa, softmax_scale=scale, **attributes)
    run = Sequences(layout, kernels, batch=4, capacity=512, scale=scale, **attributes)
    exact = layout.sinks + layout.recent
    run.extend([0, max(layout.sinks - 2, 0), exact + layout.page - 2, exact + 2 * layout.page - 1])
    for new in ([1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 1]):
        run.step(new, "decode")
    run.extend([layout.page, 0, 150, 64])
    run.step([1, 1, 0, 1], "decode")
    if layout.exact_dtype == "float32":  # otherwise codes depend on whether a token came from the tail
        run.check()


def ringed(layout: CacheLayout, window: int) -> CacheLayout:
    return replace(layout, ring=ring_pages(window, layout.recent, layout.page))


RINGS = [
    ("avx512", CacheLayout(6, 2, 64, "tq4", "tq4", recent=0, page=16), 40),
    ("avx512", CacheLayout(4, 4, 64, "tq4", "tq3", recent=16, page=16, sinks=0), 50),
    ("avx2", CacheLayout(8, 1, 80, "fp32", "fp16", recent=20, page=16), 37),
    ("portable", CacheLayout(4, 1, 64, "tq3", "fp32", recent=128, page=64), 100),  # no coded page is ever seen
]


@pytest.mark.parametrize(("isa", "layout", "window"), RINGS)
def test_a_window_far_behind_which_pages_are_overwritten(isa: str, layout: CacheLayout, window: int) -> None:
    """Token by token over every slot of the ring, beside sequences that are shorter, pause or start empty."""
    layout = ringed(layout, window)
    kernels = compile_kernels(layout, isa, softmax_scale=0.2, window=window)
    run = Sequences(layout, kernels, batch=3, capacity=900, scale=0.2, window=window)
    run.extend([0, 60, 700])
    for step in range(layout.page * (layout.ring + 1)):
        run.step([1, 1, step % 3 > 0], "decode")
    run.check()


def test_reject_a_ring_shorter_than_the_window() -> None:
    with pytest.raises(TargetError, match="ring"):
        compile_kernels(CacheLayout(4, 4, 64, recent=0, ring=1), "portable", softmax_scale=1.0, window=70)


def test_an_empty_cache_gives_zeros() -> None:
    layout = CacheLayout(4, 2, 64)
    run = Sequences(layout, compile_kernels(layout, "avx512", softmax_scale=1.0), batch=2, capacity=64, scale=1.0)
    assert (run.step([0, 0], "decode") == 0).all()


@pytest.mark.parametrize("splits", [1, 7])
def test_splits_do_not_change_the_result(splits: int) -> None:
    layout = CacheLayout(6, 2, 64, recent=32)
    outputs = []
    for count in (4, splits):
        kernels = compile_kernels(layout, "avx512", softmax_scale=0.1, options={"splits": count})
        run = Sequences(layout, kernels, batch=2, capacity=1024, scale=0.1)
        run.extend([900, 30])
        outputs.append(run.step([1, 1], "decode"))
    close(outputs[1], outputs[0], 1e-5)


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("isa", ["avx512", "portable"])
def test_a_defect_stays_in_its_head(isa: str, side: str) -> None:
    """A NaN reaches the queries of its KV head, from the tail and later from a page; every other bit stays."""
    layout = CacheLayout(4, 2, 64, "tq4", "tq3", recent=16, page=16)
    kernels = compile_kernels(layout, isa, softmax_scale=0.125)
    outputs = []
    for defect in (False, True):
        run = Sequences(layout, kernels, batch=2, capacity=512, seed=3, scale=0.125)
        k, v = run.vectors(2, 60), run.vectors(2, 60)
        if defect:
            (k if side == "k" else v)[1, 0, 50] = np.nan
        run.extend([60, 60], k, v)
        tail = run.step([1, 1], "decode")
        run.extend([100, 100])
        outputs.append((tail, run.step([1, 1], "decode")))
        if defect:
            codes = (layout.sinks + 48) // layout.page
            scales = run.state[f"{side}_scale"][run.table[1, codes - 1 : codes + 3], 0]
            assert np.isnan(scales).sum() == 1
    for clean, broken in zip(*outputs, strict=True):
        assert np.isnan(broken[1, :2]).all()
        np.testing.assert_array_equal(broken[0], clean[0])
        np.testing.assert_array_equal(broken[1, 2:], clean[1, 2:])
        assert np.isfinite(clean).all()


@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.parametrize(
    ("isa", "layout", "attributes"),
    [
        ("avx512", CacheLayout(6, 2, 64, "tq4", "tq3", recent=32, page=16), {"window": 40}),
        ("avx2", CacheLayout(8, 1, 80, "fp32", "fp16", recent=0, sinks=0), {}),
        ("portable", CacheLayout(4, 4, 64, "tq4", "tq4", recent=16), {"softcap": 5.0}),
    ],
)
def test_sink_logits_join_the_denominator_once(isa: str, layout: CacheLayout, attributes: dict, splits: int) -> None:
    """Far below all scores, far above, and between; sequences of any length, and one that pauses."""
    kernels = compile_kernels(
        layout, isa, softmax_scale=0.3, sink_logits=True, options={"splits": splits}, **attributes
    )
    logits = np.resize(np.array([0.5, -80, 3, 60, -np.inf, 1], np.float32), layout.query_heads)
    run = Sequences(layout, kernels, batch=3, capacity=512, scale=0.3, sink_logits=logits, **attributes)
    run.extend([0, 100, 300])
    for new in ([1, 1, 1], [1, 0, 1]):
        run.step(new, "decode")
