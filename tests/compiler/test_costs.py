"""Costs of schemes: noise that is known, and the order in which schemes come."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec.form import form
from tqc.compiler.costs import Window, distortion, measured_cost, predicted_cost
from tqc.compiler.moments import Sample
from tqc.errors import PassError
from tqc.frontend.canonical import LayerInfo

RNG = np.random.default_rng(0)
INFO = LayerInfo(0, 4, 2, 64, 0.125, 0.0, 0, "/Softmax")
WINDOW = Window(sinks=4, near=32)


def sample(tokens: int = 200, query_size: float = 1.0) -> Sample:
    k, v = (RNG.standard_normal((2, tokens, 64)).astype(np.float32) for _ in range(2))
    return Sample(k, v, query_size * RNG.standard_normal((4, tokens, 64)).astype(np.float32))


def cost(of: Sample, side: str, name: str, output: np.ndarray | None = None) -> float:
    return measured_cost(of, INFO, side, name, None, np.zeros((2, 64), np.float32), output, WINDOW)


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("output", [None, RNG.standard_normal((256, 40)).astype(np.float32)], ids=["own", "weights"])
def test_more_bits_cost_less(side: str, output: np.ndarray | None) -> None:
    made = sample()
    found = [cost(made, side, f"tq{bits}", output) for bits in (2, 3, 4, 6, 8)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 1e-3 * found[0]


def test_values_cost_their_relative_error_on_the_coded_tokens() -> None:
    """Queries of zeros weigh all tokens alike: the mean of independent errors against the mean of values."""
    made = sample(query_size=0.0)
    share = 1 - (WINDOW.sinks + WINDOW.near) / 150  # roughly, over queries of all lengths
    assert cost(made, "v", "tq2") == pytest.approx(distortion(form("tq2", 64)) * share, rel=0.3)


def test_louder_queries_make_keys_dearer() -> None:
    quiet, loud = (cost(sample(query_size=size), "k", "tq3") for size in (0.5, 2.0))
    assert loud > 4 * quiet


def test_a_residual_makes_errors_small_against_it() -> None:
    made, output = sample(), RNG.standard_normal((256, 40)).astype(np.float32)
    loud = Sample(made.keys, made.values, made.queries, 1000 * np.ones((200, 40), np.float32))
    assert cost(loud, "k", "tq3", output) < 1e-3 * cost(made, "k", "tq3", output)
    # One token with a residual a thousand times as large, as the first of some models has, changes nothing.
    outlier = Sample(loud.keys, loud.values, loud.queries, loud.residual.copy())
    outlier.residual[10] *= 1000
    assert cost(outlier, "k", "tq3", output) == pytest.approx(cost(loud, "k", "tq3", output))


def test_a_short_text_and_a_file_without_queries_are_refused() -> None:
    made = sample(tokens=90)
    with pytest.raises(PassError, match="too short"):
        cost(made, "k", "tq4")
    with pytest.raises(PassError, match="too short"):
        cost(Sample(made.keys, made.values), "k", "tq4")


@pytest.mark.parametrize(("bits", "listed"), [(1, 0.35839), (2, 0.11453), (3, 0.03339), (4, 0.009132)])
def test_distortion_of_the_unbiased_scale(bits: int, listed: float) -> None:
    """D of 64 dims from the published table of the codebook, D/(1 − D) with the unbiased scale."""
    assert distortion(form(f"tq{bits}", 64)) == pytest.approx(listed / (1 - listed), rel=1e-3)


def test_the_law() -> None:
    variance = predicted_cost(INFO, "k", "tq4", 30.0, 20.0)
    assert variance == pytest.approx((0.125 * 30 * 20) ** 2 * distortion(form("tq4", 64)) / 64)
    assert predicted_cost(INFO, "v", "tq4", 30.0, 20.0) == distortion(form("tq4", 64))
