from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.runtime.sampling import Sampling

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def frequencies(sampling: Sampling, logits=LOGITS, draws=4000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.bincount([sampling.choose(logits, random) for _ in range(draws)], minlength=len(logits)) / draws


def test_temperature_zero_is_greedy_and_ties_go_to_the_lowest_id():
    random = np.random.default_rng(0)
    assert Sampling().choose(LOGITS, random) == 1
    assert Sampling().choose(np.array([0.0, 1.0, 1.0]), random) == 1


def test_draws_follow_the_softmax_at_the_temperature():
    np.testing.assert_allclose(frequencies(Sampling(1.0)), [0.1, 0.4, 0.2, 0.3], atol=0.03)
    sharp = np.array([0.1, 0.4, 0.2, 0.3]) ** 2
    np.testing.assert_allclose(frequencies(Sampling(0.5)), sharp / sharp.sum(), atol=0.03)


def test_cut_offs():
    np.testing.assert_allclose(frequencies(Sampling(1.0, top_k=2)), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(frequencies(Sampling(1.0, top_p=0.5)), [0, 4 / 7, 0, 3 / 7], atol=0.03)
    np.testing.assert_allclose(frequencies(Sampling(1.0, top_p=0.3)), [0, 1, 0, 0])
    np.testing.assert_allclose(frequencies(Sampling(1.0, top_k=100, top_p=1.0)), [0.1, 0.4, 0.2, 0.3], atol=0.03)


def test_large_logits_do_not_overflow():
    assert frequencies(Sampling(0.01), np.array([1e30, 0.0], np.float32), 10).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_options_out_of_range(options):
    with pytest.raises(SessionError, match="out of range"):
        Sampling(**options)
