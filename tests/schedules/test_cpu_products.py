from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import run_vectors

from tqc.schedules.cpu_products import sum_products, tile
from tqc.schedules.cpu_simd import i64, let


def test_sums_of_products_over_a_range_of_rows() -> None:
    rng = np.random.default_rng(0)
    factors, values = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 10), (10, 32)))
    sums = np.ones((3, 32), np.float32)
    wanted = 1 + factors[:, 2:9] @ values[2:9]

    def kernel(simd, a, b, out):
        sum_products(
            simd,
            rows=3,
            start=lambda r, c: simd.load(out, i64(r), c * simd.lanes),
            coefficient=lambda r, i: a[r, i],
            values=lambda i: [(i, [let(simd.load(b, i, c * simd.lanes)) for c in range(2)])],
            steps=(i64(2), i64(9)),
            blocks=2,
            finish=lambda r, c, total: simd.store(out, total, i64(r), c * simd.lanes),
        )

    run_vectors("avx512", kernel, factors, values, sums)
    np.testing.assert_allclose(sums, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chains", [1, 2, 3])
def test_sums_in_chains_add_up(chains: int) -> None:
    """Four rows in a step, of which chains take turns; the start counts once."""
    rng = np.random.default_rng(0)
    factors, values = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 12), (12, 16)))
    sums = np.ones((2, 16), np.float32)

    def kernel(simd, a, b, out):
        def rows_of(step):
            for i in range(4):
                row = let(step * 4 + i)
                yield row, [let(simd.load(b, row, 0))]

        sum_products(
            simd,
            rows=2,
            start=lambda r, c: simd.load(out, i64(r), 0),
            coefficient=lambda r, i: a[r, i],
            values=rows_of,
            steps=(i64(0), i64(3)),
            blocks=1,
            chains=chains,
            finish=lambda r, c, total: simd.store(out, total, i64(r), 0),
        )

    run_vectors("avx512", kernel, factors, values, sums)
    np.testing.assert_allclose(sums, 1 + factors @ values, rtol=1e-5, atol=1e-5)


def test_tile() -> None:
    assert [tile(8, budget) for budget in (0, 1, 3, 5, 8, 20)] == [1, 1, 2, 4, 8, 8]
    assert tile(5, 4) == 1
