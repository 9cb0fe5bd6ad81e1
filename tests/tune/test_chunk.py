"""The reference of prefill, against attention over every single token."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.bench.problem import Geometry, Problem
from tqc.codec.layout import CacheLayout
from tqc.tune.chunk import Chunk


@pytest.mark.parametrize(("k", "v"), [("fp32", "fp32"), ("tq4", "tq3")])
def test_queries_see_the_cache_and_the_chunk_up_to_themselves(k, v):
    problem = Problem(Geometry(4, 2, 32), 1, 700)
    chunk = Chunk(problem, CacheLayout(4, 2, 32, k, v), tokens=9)
    assert chunk.checked == [0, 4, 8]
    assert chunk.wanted.shape == (1, 4, 3, 32)
    keys, values = (held(chunk, side) for side in "kv")
    for place, query in enumerate(chunk.checked):
        for head in range(4):
            seen = 700 + query + 1
            scores = keys[head // 2, :seen] @ chunk.queries[0, head, query].astype(np.float64) * 32**-0.5
            weights = np.exp(scores - scores.max())
            y = weights @ values[head // 2, :seen] / weights.sum()
            np.testing.assert_allclose(chunk.wanted[0, head, place], y, rtol=1e-6, atol=1e-6)


def held(chunk: Chunk, side: str) -> np.ndarray:
    """All tokens of a side in their order, float64 [kv_heads, tokens, dim]: sinks, codes, tail, then the chunk."""
    layout, context = chunk.layout, chunk.problem.context
    exact = chunk.problem.all_of(side).astype(np.float64)
    coded = chunk._decoded(side)
    count = layout.coded(context)
    middle = np.take(coded, np.arange(count) % coded.shape[1], axis=1)
    parts = [exact[:, : layout.sinks], middle, exact[:, layout.sinks + count :], chunk.fresh[side]]
    return np.concatenate(parts, axis=1)
