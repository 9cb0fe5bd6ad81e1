from __future__ import annotations

import pytest

from tqc.artifact import read_manifest
from tqc.artifact.summary import exact_bytes, largest_context, page_bytes, totals

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
