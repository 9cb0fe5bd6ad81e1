"""The projections of sign sketches."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec import sketch
from tqc.codec.form import form


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
@pytest.mark.parametrize("name", ["tqp3", "qjl1", "qjl3", "qjl2o"])
def test_rows_are_orthonormal_in_chunks_and_project_does_the_same(name: str, dim: int) -> None:
    stored = form(name, dim)
    matrix = sketch.matrix(stored)
    assert matrix.shape == (stored.sketch_rows, dim)
    for band in stored.bands:
        for i, _ in enumerate(sketch.chunk_seeds(stored, band) if band.sketch else ()):
            first, count = band.source
            start = band.start - dim + i * count
            chunk = matrix[start : start + count]
            np.testing.assert_allclose(chunk @ chunk.T, np.eye(count), atol=1e-12)
            assert not np.delete(chunk, np.s_[first : first + count], axis=1).any()
    x = np.random.default_rng(0).standard_normal((5, dim))
    np.testing.assert_allclose(sketch.project(x, stored), x @ matrix.T, atol=1e-5)


def test_chunks_and_seeds_differ() -> None:
    stored = form("qjl3", 64)
    matrix = sketch.matrix(stored)
    assert not np.allclose(matrix[:64], matrix[64:128])
    assert not np.allclose(matrix, sketch.matrix(stored, seed=1))
    assert len(set(sketch.chunk_seeds(form("qjl2o", 64), form("qjl2o", 64).bands[2]))) == 2


def test_no_sketch_no_rows() -> None:
    assert sketch.project(np.ones((3, 64)), form("tq4", 64)).shape == (3, 0)
