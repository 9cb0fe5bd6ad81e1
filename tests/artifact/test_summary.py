from __future__ import annotations

import pytest

from tqc.artifact import StateTensor, read_manifest
from tqc.artifact.summary import coded_bytes, exact_bytes, largest_context, page_bytes, totals

TAIL, PAGE = 2 * 3 * 64 * 64 * 4, 2 * 1024 * 2


def test_bytes_come_from_the_shapes(make):
    manifest = make.manifest()
    assert page_bytes(manifest) == PAGE
    assert exact_bytes(manifest, batch=3) == 3 * TAIL


@pytest.mark.parametrize(
    ("memory", "tokens"),
    [(0, 0), (TAIL - 1, 0), (TAIL, 4), (TAIL + PAGE - 1, 4), (TAIL + PAGE, 68), (TAIL + 5 * PAGE, 324)],
)
def test_the_largest_context_fills_whole_pages(make, memory, tokens):
    manifest = make.manifest()
    assert largest_context(manifest, memory) == tokens
    assert exact_bytes(manifest) + manifest.cache.pages(tokens) * PAGE <= max(memory, TAIL)


def test_totals(artifact):
    sums = totals(read_manifest(artifact), 1 << 20)
    assert sums["bytes_per_token"] == 136
    assert sums["fp16_bytes_per_token"] == 512
    assert sums["compression"] == pytest.approx(512 / 136)
    assert sums["params_bytes"] == (artifact / "params.safetensors").stat().st_size


def windowed(make, *, full: bool):
    """A manifest with a ring of 3 pages a sequence, PAGE bytes a page, beside the layer of the fixture or alone."""
    base = make.manifest()
    ring = StateTensor(name="k_codes", shape=("batch", "ring3", 2, 1024), dtype="uint16")
    layer = base.layers[0].model_copy(update={"window": 100})
    states = (*(base.cache.state if full else ()), (ring,))
    return make.manifest(
        layers=(*(base.layers if full else ()), layer), cache=base.cache.model_copy(update={"state": states})
    )


def test_windows_stop_growing(make):
    manifest = windowed(make, full=True)
    assert page_bytes(manifest) == 2 * PAGE
    assert exact_bytes(manifest) == TAIL
    assert [coded_bytes(manifest, pages) for pages in (0, 1, 3, 4, 10)] == [0, 2 * PAGE, 6 * PAGE, 7 * PAGE, 13 * PAGE]
    pages = [(largest_context(manifest, TAIL + count * PAGE) - 4) // 64 for count in (0, 1, 2, 5, 6, 7, 8, 100)]
    assert pages == [0, 0, 1, 2, 3, 4, 5, 97]


def test_with_windows_alone_the_memory_limits_nothing_once_they_fit(make):
    manifest = windowed(make, full=False)
    assert largest_context(manifest, 3 * PAGE - 1) == 4 + 2 * 64
    assert largest_context(manifest, 3 * PAGE) == manifest.max_context == 1024
