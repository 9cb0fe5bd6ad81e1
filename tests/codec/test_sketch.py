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


@pytest.mark.parametrize("dim", [64, 80])
@pytest.mark.parametrize("name", ["tqp3", "qjl3", "qjl2o", "tq4"])
def test_fold_is_the_transpose(name: str, dim: int) -> None:
    stored = form(name, dim)
    y = np.random.default_rng(0).standard_normal((2, 3, stored.sketch_rows))
    found = sketch.fold(y, stored, seed=5)
    assert (found.shape, found.dtype) == ((2, 3, dim), np.float32)
    np.testing.assert_allclose(found, y @ sketch.matrix(stored, 5), atol=1e-5)


def test_gaussian_rows() -> None:
    stored = form("qjl3o", 256)
    made = sketch.gaussian_matrix(stored, seed=1)
    outliers = stored.coded_bands[0]
    first, rest = np.split(made, [outliers.rows])
    assert not first[:, 16:].any()
    assert not rest[:, :16].any()
    assert rest[:, 16:].std() == pytest.approx(1, abs=0.01)
    assert first[:, :16].std() == pytest.approx(1, abs=0.1)
    assert not np.allclose(made, sketch.gaussian_matrix(stored, seed=2))
    np.testing.assert_array_equal(made, sketch.gaussian_matrix.__wrapped__(stored, 1))
