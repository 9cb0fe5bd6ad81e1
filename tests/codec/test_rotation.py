"""Rotations are orthogonal, seeded and the same in their fast and matrix forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.codec import rotation
from tqc.errors import CodecError

HEAD_DIMS = (16, 48, 64, 80, 96, 112, 128, 256, 496, 512)


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_matrix_is_orthogonal(dim: int, rounds: int) -> None:
    made = rotation.matrix(dim, seed=3, rounds=rounds)
    assert made.shape == (dim, dim)
    assert made.dtype == np.float64
    assert np.abs(made @ made.T - np.eye(dim)).max() < 1e-12
    as_single = made.astype(np.float32)
    assert np.abs(as_single @ as_single.T - np.eye(dim)).max() < 1e-5


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_rotate_is_the_matrix(dim: int, rounds: int) -> None:
    x = np.random.default_rng(dim).standard_normal((3, 5, dim))
    y = rotation.rotate(x, seed=3, rounds=rounds)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, x @ rotation.matrix(dim, 3, rounds).T, atol=3e-6)
    np.testing.assert_allclose(rotation.unrotate(y, seed=3, rounds=rounds), x, atol=3e-6)


@pytest.mark.parametrize("dim", [64, 80, 96, 128])
def test_norms_and_inner_products_are_kept(dim: int) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 200, dim))
    ra, rb = rotation.rotate(a), rotation.rotate(b)
    np.testing.assert_allclose(np.linalg.norm(ra, axis=1), np.linalg.norm(a, axis=1), rtol=1e-6)
    np.testing.assert_allclose((ra * rb).sum(1), (a * b).sum(1), atol=1e-4)


def test_power_of_two_is_a_signed_hadamard_matrix() -> None:
    sylvester = np.ones((1, 1))
    for _ in range(6):
        sylvester = np.kron([[1, 1], [1, -1]], sylvester)
    ratio = rotation.matrix(64, seed=5) / (sylvester / 8)
    np.testing.assert_allclose(np.abs(ratio), 1, rtol=1e-15)
    np.testing.assert_array_equal(np.sign(ratio), np.sign(ratio[:1]) * np.ones((64, 1)))
    assert 16 < (ratio[0] > 0).sum() < 48


def test_other_dims_are_a_kronecker_product() -> None:
    made = rotation.matrix(80, seed=1)
    blocks = np.abs(made).reshape(16, 5, 16, 5)
    np.testing.assert_allclose(blocks, np.broadcast_to(blocks[:1, :, :1], blocks.shape), atol=1e-12)
    assert np.unique(np.round(blocks[0, :, 0], 6)).size > 20


def test_seeds_and_rounds_differ() -> None:
    made = [rotation.matrix(64, seed, rounds) for seed in (0, 1) for rounds in (1, 2)]
    assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(made) for b in made[:i])


def test_constant_vectors_are_spread() -> None:
    largest = [np.abs(rotation.rotate(np.full(128, 128**-0.5), seed)).max() for seed in range(50)]
    assert max(largest) < 0.6


@settings(max_examples=25, deadline=None)
@given(dim=st.integers(1, 32).map(lambda n: 16 * n), seed=st.integers(0, 2**32), rows=st.integers(0, 3))
def test_round_trip_at_every_dim(dim: int, seed: int, rows: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    np.testing.assert_allclose(rotation.unrotate(rotation.rotate(x, seed), seed), x, atol=1e-5)


@pytest.mark.parametrize("dim", [80, 128])
def test_a_row_does_not_depend_on_its_batch(dim: int) -> None:
    x = np.random.default_rng(0).standard_normal((9, dim)).astype(np.float32)
    alone = np.stack([rotation.rotate(row) for row in x])
    np.testing.assert_array_equal(rotation.rotate(x), alone)
    np.testing.assert_array_equal(rotation.rotate(np.asfortranarray(x)), alone)


def test_cached_matrix_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        rotation.matrix(64)[0, 0] = 0


@pytest.mark.parametrize("dim", [0, 8, 40, 528])
def test_reject_head_dim(dim: int) -> None:
    with pytest.raises(CodecError, match="multiple of 16"):
        rotation.matrix(dim)
    with pytest.raises(CodecError, match="multiple of 16"):
        rotation.rotate(np.zeros((2, dim)))
