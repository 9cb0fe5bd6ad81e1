from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import run_vectors

from tqc.schedules.cpu_merge import NOTHING, Partial, sink_score
from tqc.schedules.cpu_simd import i64, let


@pytest.mark.parametrize("sink", [None, -np.inf, 1.5, 40.0])
def test_tasks_are_brought_to_one_maximum(sink: float | None) -> None:
    """Row 1 of tasks 1 to 3, of which one has seen nothing; masses are spread over lanes."""
    rng = np.random.default_rng(0)
    sums = rng.standard_normal((5, 2, 32)).astype(np.float32)
    peak = rng.uniform(-20, 20, (5, 2)).astype(np.float32)
    mass = rng.uniform(0, 2, (5, 2, 16)).astype(np.float32)
    sums[2, 1], peak[2, 1], mass[2, 1] = 0, NOTHING, 0
    logits, y = np.array([7, 0 if sink is None else sink], np.float32), np.zeros((1, 32), np.float32)

    def kernel(simd, sums, peak, mass, logits, y):
        score = None if sink is None else let(sink_score(logits, i64(1)))
        Partial(sums, peak, mass).merge(simd, i64(1), 3, i64(1), score, y, i64(0))

    run_vectors("avx512", kernel, sums, peak, mass, logits, y)
    scale = np.exp2(peak[1:4, 1].astype(np.float64))
    total = (scale * mass[1:4, 1].sum(axis=-1)).sum() + (0 if sink is None else np.exp(sink))
    np.testing.assert_allclose(y[0], (scale[:, None] * sums[1:4, 1]).sum(axis=0) / total, rtol=1e-4, atol=1e-6)


def test_nothing_seen_gives_zeros() -> None:
    sums, peak, mass = (
        np.zeros((2, 1, 16), np.float32),
        np.full((2, 1), NOTHING, np.float32),
        np.zeros((2, 1, 16), "f4"),
    )
    y = np.ones((1, 16), np.float32)
    run_vectors(
        "avx512",
        lambda simd, a, b, c, y: Partial(a, b, c).merge(simd, i64(0), 2, i64(0), None, y, i64(0)),
        *(sums, peak, mass, y),
    )
    assert (y == 0).all()
