"""The transform of banded vectors, against what bits and errors come to."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec.banded import Banded
from tqc.codec.form import form
from tqc.compiler.transform import SHRINKAGE, band_transform, joint_diagonal

RNG = np.random.default_rng(0)


def moment(decay: float, dim: int = 64) -> np.ndarray:
    turn, _ = np.linalg.qr(RNG.standard_normal((dim, dim)))
    return turn @ np.diag(decay ** np.arange(dim)) @ turn.T


def test_both_moments_are_diagonal() -> None:
    keys, queries = moment(0.9), moment(0.95)
    a, importance = joint_diagonal(keys, queries)
    size = np.trace(keys) / 64
    shrunk = (1 - SHRINKAGE) * keys + SHRINKAGE * size * np.eye(64)
    np.testing.assert_allclose(a @ shrunk @ a.T, np.eye(64), atol=1e-9)
    back = np.linalg.inv(a)
    turned = back.T @ queries @ back
    assert np.abs(np.diag(turned) - importance).max() < 0.1 * importance[0]
    assert (np.diff(importance) <= 1e-12).all()


@pytest.mark.parametrize(("name", "better"), [("16@5/16@3/32@2", 2.0), ("32@4/32@2", 2.0)])
def test_errors_cost_less_than_with_equal_bits(name: str, better: float) -> None:
    """3 bits a number in all; logits of queries with the same moments as in training."""
    keys, queries = moment(0.9), moment(0.9)
    x = RNG.multivariate_normal(np.zeros(64), keys, 4000)
    q = RNG.multivariate_normal(np.zeros(64), queries, 4000)
    errors = {}
    for scheme, matrix in ((name, band_transform(form(name, 64), keys, queries)), ("tq3", None)):
        codec = Banded(scheme, 64, matrix=matrix)
        errors[scheme] = np.var(np.einsum("ij,ij->i", q, codec.decode(codec.encode(x)) - x))
    assert errors[name] < errors["tq3"] / better


def test_a_head_of_zeros_has_a_basis() -> None:
    a = band_transform(form("16@5/48@2", 64), np.zeros((64, 64)), None)
    assert np.isfinite(a).all()
    assert np.linalg.matrix_rank(a) == 64
