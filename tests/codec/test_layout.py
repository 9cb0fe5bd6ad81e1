"""The cache's geometry: where every token lives and how many bytes a page takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc import codec
from tqc.codec.layout import CacheLayout, TensorSpec, planes, ring_pages
from tqc.errors import TargetError

layouts = st.builds(
    CacheLayout,
    query_heads=st.just(9),
    kv_heads=st.just(3),
    head_dim=st.just(64),
    sinks=st.integers(0, 20),
    recent=st.integers(0, 200),
    page=st.sampled_from([16, 32, 64]),
)


@pytest.mark.parametrize("bits", range(1, 9))
def test_planes_make_up_the_code(bits: int) -> None:
    widths = [width for width, _ in planes(bits)]
    assert sum(widths) == bits
    assert widths == sorted(widths, reverse=True)
    assert sum((1 << width) - 1 << shift for width, shift in planes(bits)) == 2**bits - 1
    assert all(16 % width == 0 for width in widths)


@given(layout=layouts, length=st.integers(0, 2000))
def test_newest_tokens_are_exact_and_fit_the_ring(layout: CacheLayout, length: int) -> None:
    after, coded = max(0, length - layout.sinks), layout.coded(length)
    assert coded <= after
    assert after - coded >= min(after, layout.recent)
    assert layout.coded(length) <= layout.coded(length + 1)
    if layout.recent:
        assert coded % layout.page == 0
        assert after - coded < layout.recent + layout.page
    if after:
        staged = min(coded, (after - 1) // layout.page * layout.page)
        pages = range(staged // layout.page, (after - 1) // layout.page + 1)
        assert len(pages) <= layout.tail_pages


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("bits", range(1, 9))
def test_a_page_takes_the_bytes_of_its_vectors(bits: int, dim: int) -> None:
    name = f"tq{bits}"
    sizes = {spec.name: spec.shape for spec in CacheLayout(4, 2, dim, k=name, v=name, page=32).tensors()}
    for side in "kv":
        codes, scale = sizes[f"{side}_codes"], sizes[f"{side}_scale"]
        assert 2 * codes[2] + 2 * scale[2] == 32 * codec.get(name, dim).bytes_per_vector


def test_tensors_of_a_mixed_layout() -> None:
    layout = CacheLayout(9, 3, 64, k="tq3", v="fp16", sinks=4, recent=100, page=64)
    assert layout.group == 3
    assert layout.tensors() == (
        TensorSpec("sink_k", ("batch", 3, 64, 16), "float32"),
        TensorSpec("sink_v", ("batch", 3, 16, 64), "float32"),
        TensorSpec("tail_k", ("batch", 3, 3, 64, 64), "float32"),
        TensorSpec("tail_v", ("batch", 3, 3, 64, 64), "float32"),
        TensorSpec("k_codes", ("pages", 3, 64 * 64 * 3 // 16), "uint16"),
        TensorSpec("k_scale", ("pages", 3, 64), "float16"),
        TensorSpec("v_codes", ("pages", 3, 64 * 64), "float16"),
    )


def test_no_sinks_no_sink_tensors() -> None:
    names = [spec.name for spec in CacheLayout(4, 4, 64, sinks=0).tensors()]
    assert names == ["tail_k", "tail_v", "k_codes", "k_scale", "v_codes", "v_scale"]


def seen_pages(layout: CacheLayout, window: int, query: int, held: int) -> list[int]:
    """Coded pages of a cache of `held` tokens that a query at position `query` sees."""
    tokens = range(max(0, query - window + 1 - layout.sinks), layout.coded(held))
    return sorted({t // layout.page for t in tokens})


@given(layout=layouts, window=st.integers(1, 400), length=st.integers(0, 2000), later=st.integers(0, 300))
def test_a_ring_holds_every_coded_page_that_is_seen(layout: CacheLayout, window: int, length: int, later: int) -> None:
    """In decode, whose query is the newest token, and in prefill, whose queries come after it."""
    ring = ring_pages(window, layout.recent, layout.page)
    newest = range(-(-layout.coded(length) // layout.page))[-ring:]
    for query in (length - 1, length + later):
        assert set(seen_pages(layout, window, query, length)) <= set(newest)


@pytest.mark.parametrize("page", [16, 64])
@pytest.mark.parametrize("recent", [0, 1, 20, 64, 130])
@pytest.mark.parametrize("window", [1, 2, 16, 17, 18, 64, 65, 200])
def test_a_ring_is_no_longer_than_that(window: int, recent: int, page: int) -> None:
    layout = CacheLayout(4, 2, 64, sinks=3, recent=recent, page=page)
    most = max(len(seen_pages(layout, window, length - 1, length)) for length in range(1, 800))
    assert ring_pages(window, recent, page) == max(1, most)


def test_pages_of_a_ring_belong_to_their_sequence() -> None:
    shapes = {spec.name: spec.shape for spec in CacheLayout(4, 2, 64, k="fp16", ring=3).tensors()}
    assert shapes["k_codes"] == ("batch", "ring3", 2, 64 * 64)
    assert shapes["v_codes"] == ("batch", "ring3", 2, 64 * 64 // 4)
    assert shapes["v_scale"] == ("batch", "ring3", 2, 64)


def test_reject_a_window_that_the_ring_does_not_hold() -> None:
    layout = CacheLayout(4, 2, 64, recent=0, page=16, ring=3)
    layout.check_window(33)
    CacheLayout(4, 2, 64).check_window(0)
    with pytest.raises(TargetError, match="at least 4"):
        layout.check_window(34)
    with pytest.raises(TargetError, match="no ring"):
        layout.check_window(0)
