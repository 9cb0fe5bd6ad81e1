"""Bases of schemes that keep outlier channels apart."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec import basis
from tqc.codec.basis import split_basis
from tqc.codec.form import form, outlier_dims
from tqc.codec.rotation import matrix, rotate
from tqc.errors import CodecError

DIMS = (64, 80, 96, 128, 256)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["tq2.5", "tq3.5", "qjl2o"])
def test_split_basis_is_orthogonal_and_keeps_the_parts_apart(name: str, dim: int) -> None:
    random, stored = np.random.default_rng(dim), form(name, dim)
    count = 16 if name == "qjl2o" else outlier_dims(dim)
    outliers = random.choice(dim, count, replace=False)
    made = split_basis(stored, outliers, seed=3)
    assert np.abs(made @ made.T - np.eye(dim)).max() < 1e-12
    others = np.setdiff1d(np.arange(dim), outliers)
    assert not made[:count, others].any()
    assert not made[count:, outliers].any()
    x = random.standard_normal(dim)
    parts = [x[outliers], x[others]] if name == "qjl2o" else [rotate(x[part], seed=3) for part in (outliers, others)]
    np.testing.assert_allclose(made @ x, np.concatenate(parts), atol=1e-5)


def test_first_channels_are_the_default() -> None:
    stored = form("tq2.5", 128)
    made = split_basis(stored)
    np.testing.assert_array_equal(made, split_basis(stored, range(32), seed=0))
    np.testing.assert_allclose(made[:32, :32], matrix(32, 0), atol=1e-15)
    np.testing.assert_array_equal(split_basis(form("qjl1o", 64)), np.eye(64))


@pytest.mark.parametrize("outliers", [range(31), [0] * 32, range(100, 132), range(-1, 31)])
def test_reject_other_channels(outliers) -> None:
    with pytest.raises(CodecError, match="32 different channels below 128"):
        split_basis(form("tq2.5", 128), outliers)


@pytest.mark.parametrize("name", ["tq4", "tqp4", "qjl1", "polar", "fp16", "16@5+48@2", "16@5/48@2", "16@5/16@3+32@2"])
def test_reject_schemes_that_split_nothing(name: str) -> None:
    with pytest.raises(CodecError, match="splits no channels"):
        split_basis(form(name, 64))


def test_check_matrix() -> None:
    stored = form("16@5+48@2", 64)
    assert basis.check_matrix(stored, np.eye(64, dtype=np.float32)).dtype == np.float64
    for wrong in (np.eye(63), np.zeros((64, 64)), np.full((64, 64), np.nan), np.ones((2, 64, 64))):
        with pytest.raises(CodecError, match="no basis"):
            basis.check_matrix(stored, wrong)
    with pytest.raises(CodecError, match="takes no basis"):
        basis.check_matrix(form("tq4", 64), np.eye(64))


def test_apply_is_the_product_and_a_row_does_not_depend_on_its_batch() -> None:
    random = np.random.default_rng(0)
    turn, x = random.standard_normal((48, 80)), random.standard_normal((3, 7, 80)).astype(np.float32)
    found = basis.apply(turn, x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x @ turn.T, atol=2e-5)
    np.testing.assert_array_equal(found[1, 2], basis.apply(turn, x[1, 2]))
    np.testing.assert_array_equal(found, basis.apply(turn, np.asfortranarray(x)))
