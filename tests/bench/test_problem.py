from __future__ import annotations

import numpy as np
import pytest

from tqc.bench.problem import PERIOD, Geometry, Problem, attention, error
from tqc.errors import TqcError


def test_heads_are_read_and_written():
    assert Geometry.parse(" 32x8x128 ") == Geometry.parse("32:8:128") == Geometry(32, 8, 128)
    assert str(Geometry(9, 3, 64)) == "9x3x64"


@pytest.mark.parametrize("text", ["32x8", "axbxc", "", "3x2x64", "0x0x64"])
def test_heads_that_are_none(text):
    with pytest.raises(TqcError, match=r"(?i)heads"):
        Geometry.parse(text)


@pytest.mark.parametrize("context", [1, 70, PERIOD + 5])
def test_the_short_reference_is_that_over_all_tokens(context):
    problem = Problem(Geometry(4, 2, 8), 2, context)
    k, v = problem.all_of("k"), problem.all_of("v")
    assert k.shape == (2, context, 8)
    assert problem.values == 2 * 2 * k.size
    scores = np.einsum("bhd,htd->bht", problem.q, np.repeat(k, 2, axis=0).astype(np.float64)) * 8**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = np.einsum("bht,htd->bhd", weights / weights.sum(-1, keepdims=True), np.repeat(v, 2, axis=0))
    np.testing.assert_allclose(problem.exact, wanted, rtol=1e-9)


def test_numbers_are_float16_numbers_and_the_same_each_time():
    first, second = (Problem(Geometry(4, 2, 8), 1, 9) for _ in range(2))
    np.testing.assert_array_equal(first.k, second.k)
    np.testing.assert_array_equal(first.v, first.v.astype(np.float16))
    assert (first.k != first.v).any()


def test_counts_of_a_range():
    problem = Problem(Geometry(1, 1, 8), 1, PERIOD + 3)
    assert problem.counts().sum() == PERIOD + 3
    assert problem.counts()[:4].tolist() == [2, 2, 2, 1]
    assert problem.counts(PERIOD).sum() == 3
    assert problem.counts(5, 3).sum() == 0


def test_a_token_counted_twice_is_there_twice():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((1, 2, 4)), rng.standard_normal((1, 3, 4)), rng.standard_normal((1, 3, 5))
    twice = attention(q, np.concatenate([k, k[:, :1]], 1), np.concatenate([v, v[:, :1]], 1), np.ones(4), 0.5)
    np.testing.assert_allclose(attention(q, k, v, np.array([2, 1, 1]), 0.5), twice)


def test_the_error_is_relative_and_infinite_for_what_was_not_written():
    wanted = np.array([[[3.0, 4.0]]])
    assert error(wanted + np.array([0.0, 0.5]), wanted) == pytest.approx(0.1)
    assert error(np.full_like(wanted, np.nan), wanted) == float("inf")
    assert error(wanted[0], wanted) == float("inf")
