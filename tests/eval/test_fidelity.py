from __future__ import annotations

import math

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.eval.fidelity import Tally, compare, log_softmax


class Table:
    """A model that predicts the next token from the last one alone: row t of `probabilities` follows token t."""

    def __init__(self, probabilities) -> None:
        self.logits = np.log(np.asarray(probabilities, dtype=np.float64)) + 7.0

    def reset(self):
        pass

    def prefill(self, ids, *, all_logits=False):
        return self.logits[list(ids)]

    def decode(self, ids):
        return self.logits[list(ids)]


REFERENCE = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.2, 0.2, 0.6]]
OTHER = [[0.25, 0.5, 0.25], [0.125, 0.75, 0.125], [0.3, 0.1, 0.6]]
TEXT = [0, 1, 1, 2, 0]


def hand_computed() -> dict[str, float]:
    """Four predictions: after 0, 1, 1, 2 come 1, 1, 2, 0."""
    after_0 = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    after_2 = 0.2 * math.log(0.2 / 0.3) + 0.2 * math.log(0.2 / 0.1)
    return {
        "agreement": 3 / 4,
        "reference_perplexity": (0.25 * 0.75 * 0.125 * 0.2) ** (-1 / 4),
        "perplexity": (0.5 * 0.75 * 0.125 * 0.3) ** (-1 / 4),
        "kl": (after_0 + after_2) / 4,
        "kl_max": max(after_0, after_2),
        "max_difference": math.log(2),
    }


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_the_numbers_are_those_computed_by_hand(chunk):
    result = compare(Table(REFERENCE), {"other": Table(OTHER)}, TEXT, chunk=chunk)["other"]
    assert result.tokens == 4
    for name, value in hand_computed().items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-6), name
    assert result.perplexity_change == pytest.approx((0.5 * 0.3 / 0.25 / 0.2) ** (-1 / 4) - 1, rel=1e-6)
    assert ("decode" in result.mode) == (chunk == 1)


def test_a_model_agrees_with_itself():
    result = compare(Table(REFERENCE), {"same": Table(REFERENCE)}, TEXT, chunk=2)["same"]
    assert (result.agreement, result.kl, result.max_difference, result.perplexity_change) == (1.0, 0.0, 0.0, 0.0)


def test_several_models_are_compared_in_one_run():
    results = compare(Table(REFERENCE), {"same": Table(REFERENCE), "other": Table(OTHER)}, TEXT, chunk=2)
    assert results["same"].agreement == 1.0
    assert results["other"].agreement == 0.75


def test_progress_counts_predictions():
    seen = []
    compare(Table(REFERENCE), {}, TEXT, chunk=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]


def test_log_softmax_survives_large_logits():
    logits = np.array([[1e4, 1e4 + math.log(3), 0.0]], np.float32)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), [[0.25, 0.75, 0.0]], atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_reject_logits_that_are_not_finite(bad):
    broken = Table(OTHER)
    broken.logits[1, 2] = bad
    with pytest.raises(SessionError, match="not finite"):
        compare(Table(REFERENCE), {"broken": broken}, TEXT)


def test_reject_a_text_without_a_prediction():
    with pytest.raises(SessionError, match="at least two tokens"):
        compare(Table(REFERENCE), {}, [0])


def test_tally_holds_sums_only():
    tally = Tally()
    tally.add(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), np.array([0, 1]))
    assert all(isinstance(value, (int, float)) for value in vars(tally).values())
