"""The errors of split channels, mixed widths, sign sketches and two rounds of rotation against theory.

Variances are those of ⟨q, x̃⟩ for a random unit q at right angles to the unit vector x, times d: the average over q is
|error at right angles to x|² · d / (d − 1), so that few vectors give it within a percent.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tqc import codec
from tqc.codec.banded import Banded, split_basis
from tqc.codec.form import form
from tqc.codec.lloyd_max import beta_law, codebook

DIMS = (64, 80, 96, 128, 256)


def code_loss(bits: int, dim: int) -> float:
    """E|x − x̃|² / |x|² of Lloyd–Max codes of unit vectors: 1 less what the centroids hold."""
    law, half = beta_law(dim), codebook(bits, dim).centroids[2 ** (bits - 1) :].astype(np.float64)
    mass, _, _ = law.cells((half[:-1] + half[1:]) / 2)
    return float(1 - dim * np.average(half**2, weights=mass))


def unit(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    x = random.standard_normal((count, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def error(made: codec.Codec, x: np.ndarray) -> np.ndarray:
    return made.decode(made.encode(x)) - x


def mean_loss(made: codec.Codec, x: np.ndarray) -> float:
    return float(((error(made, x) ** 2).sum(axis=1) / (x**2).sum(axis=1)).mean())


def variance(lost: np.ndarray, x: np.ndarray, cosine: float = 0.0) -> float:
    """dim · Var⟨q, x̃⟩ for random unit q with that cosine to x."""
    dim = x.shape[1]
    along = (lost * x).sum(axis=1, keepdims=True)
    across = ((lost - along * x) ** 2).sum(axis=1).mean() / (dim - 1)
    return float(dim * (cosine**2 * (along**2).mean() + (1 - cosine**2) * across))


def test_parts_of_a_split_are_scaled_by_their_own_dimension() -> None:
    """With the whole vector's 1/√128 the error of the 32 outliers would be .1256."""
    z = np.random.default_rng(0).standard_normal((6000, 128)).astype(np.float32)
    made = Banded("tq2.5", 128, scalar="plain")
    lost = made.dequantize(*made.quantize(z)) - z
    for rows, expected in ((slice(0, 32), 0.0325), (slice(32, 128), 0.1155)):
        found = (lost[:, rows] ** 2).sum(1) / (z[:, rows] ** 2).sum(1)
        assert found.mean() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "losses"),
    [("tq2.5", {0.5: 0.074, 0.7: 0.057, 0.9: 0.041}), ("tq3.5", {0.5: 0.021, 0.7: 0.016, 0.9: 0.011})],
)
def test_a_split_gains_from_outlier_channels(name: str, losses: dict[float, float]) -> None:
    random = np.random.default_rng(1)
    outliers = random.choice(128, 32, replace=False)
    made = codec.get(name, 128, scalar="plain", matrix=split_basis(form(name, 128), outliers))
    x = random.standard_normal((2000, 128))
    for share, expected in losses.items():
        scaled = x.copy()
        scaled[:, outliers] *= math.sqrt(3 * share / (1 - share))
        assert (error(made, scaled) ** 2).sum() / (scaled**2).sum() == pytest.approx(expected, abs=0.0008)


@pytest.mark.parametrize("dim", DIMS)
def test_loss_of_a_split_is_that_of_its_parts(dim: int) -> None:
    x = np.random.default_rng(dim).standard_normal((1500, dim))
    for name, bits in (("tq2.5", 2), ("tq3.5", 3)):
        outliers = form(name, dim).bands[0].rows
        parts = outliers * code_loss(bits + 1, outliers) + (dim - outliers) * code_loss(bits, dim - outliers)
        found = (error(codec.get(name, dim, 3, "plain"), x) ** 2).sum() / (x**2).sum()
        assert found == pytest.approx(parts / dim, rel=0.02)


def test_loss_of_mixed_widths_is_that_of_their_rows() -> None:
    x = np.random.default_rng(2).standard_normal((4000, 64))
    made = codec.get("16@5+16@3+32@2", 64, scalar="plain")
    expected = (16 * code_loss(5, 64) + 16 * code_loss(3, 64) + 32 * code_loss(2, 64)) / 64
    assert mean_loss(made, x) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_variance_of_prod(bits: int, dim: int) -> None:
    """Two rounds of signed Hadamard matrices are as good as a random orthogonal matrix, 2.75 times better than
    Gaussian rows. With codes scaled to be unbiased themselves, which the sketch does not need, the residual and with
    it the variance is larger by 1 / (1 − loss)."""
    x, loss = unit(np.random.default_rng(dim), 150, dim), code_loss(bits - 1, dim)
    for options, expected in (
        ({"scalar": "plain", "gaussian": True}, math.pi / 2 * loss),
        ({"scalar": "plain"}, (math.pi / 2 - 1) * loss),
        ({"scalar": "unbiased"}, (math.pi / 2 - 1) * loss / (1 - loss)),
    ):
        made = [codec.get(f"tqp{bits}", dim, seed, **options) for seed in range(8)]
        found = np.mean([variance(error(one, x), x) for one in made])
        assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("cosine", [0, 0.5, 0.9])
def test_variance_of_qjl_with_gaussian_rows(cosine: float, dim: int) -> None:
    x = unit(np.random.default_rng(dim), 1500, dim)
    found = np.mean([variance(error(codec.get("qjl1", dim, s, gaussian=True), x), x, cosine) for s in range(8)])
    assert found == pytest.approx(math.pi / 2 - cosine**2, rel=0.05)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("times", [1, 2, 3])
def test_variance_of_qjl_with_orthogonal_rows(times: int, dim: int) -> None:
    x = unit(np.random.default_rng(dim), 150, dim)
    found = np.mean([variance(error(codec.get(f"qjl{times}", dim, seed), x), x) for seed in range(8)])
    assert found == pytest.approx((math.pi / 2 - 1) / times, rel=0.05)


def test_outlier_channels_do_not_disturb_the_others_when_sketched_apart() -> None:
    random = np.random.default_rng(3)
    outliers = random.choice(128, 16, replace=False)
    x = random.standard_normal((300, 128))
    x[:, outliers] *= 10
    lost = {}
    for name, options in (("qjl2", {}), ("qjl2o", {"matrix": split_basis(form("qjl2o", 128), outliers)})):
        lost[name] = np.delete(error(codec.get(name, 128, **options), x), outliers, axis=1).var()
    assert lost["qjl2"] > 10 * lost["qjl2o"]
    assert lost["qjl2o"] == pytest.approx((math.pi / 2 - 1) / 2, rel=0.05)


def bias(name: str, dim: int, seeds: int, **options) -> tuple[float, float]:
    """(mean error of ⟨q, x̃⟩ over fresh seeds, its standard error), q being no function of x but near it."""
    random = np.random.default_rng(dim)
    x = unit(random, 16, dim)
    q = 0.8 * x + 0.6 * unit(random, 16, dim)
    means = [(error(codec.get(name, dim, seed, **options), x) * q).sum(1).mean() for seed in range(seeds)]
    return float(np.mean(means)), float(np.std(means) / math.sqrt(seeds))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["tq1", "tq2", "tq4", "tqp2", "tqp4", "qjl1", "qjl2"])
def test_products_are_right_on_average_over_fresh_seeds(name: str, dim: int) -> None:
    mean, deviation = bias(name, dim, 200)
    assert abs(mean) < 4 * deviation


@pytest.mark.parametrize("options", [{"gaussian": True}, {"scalar": "plain"}, {"scalar": "plain", "gaussian": True}])
def test_a_sketch_makes_any_code_right_on_average(options: dict) -> None:
    for name in ("tqp2", "tqp3"):
        mean, deviation = bias(name, 64, 300, **options)
        assert abs(mean) < 4 * deviation


def test_plain_scales_are_short_by_the_loss() -> None:
    """And 200 seeds are enough to see a bias."""
    for bits in (2, 4):
        mean, deviation = bias(f"tq{bits}", 128, 200, scalar="plain")
        assert mean < -10 * deviation
        assert mean == pytest.approx(-0.8 * code_loss(bits, 128), rel=0.1)


@pytest.mark.parametrize(("dim", "expected"), [(64, 0.127), (80, 0.141), (96, 0.144), (128, 0.118), (256, 0.118)])
def test_two_rounds_bring_single_coordinates_near_theory(dim: int, expected: float) -> None:
    """One round leaves .25 at a power of two. Where the Hadamard matrix has an odd factor of 5 or 3, two rounds leave
    a fifth more than theory, still below the bound of the paper, (√3·π/2)·4^−b = .170."""
    x = np.eye(dim)[:4]
    found = [mean_loss(codec.get("tq2", dim, seed, "plain", rounds=2), x) for seed in range(250)]
    assert np.mean(found) == pytest.approx(expected, abs=0.006)
    if dim & (dim - 1) == 0:
        assert mean_loss(codec.get("tq2", dim, 0, "plain"), x) > 0.245


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", ["qjl1", "tqp3"])
def test_sketches_of_single_coordinates_and_constants(name: str, dim: int) -> None:
    """The two rounds of S keep the variance of random directions for the hardest keys too, within a fifth."""
    for x in (np.eye(dim)[:8], np.full((1, dim), dim**-0.5)):
        found = np.mean([variance(error(codec.get(name, dim, seed), x), x) for seed in range(60)])
        left = 1.0
        if name == "tqp3":  # what the codes leave is itself more than the theory's of such keys, in one round
            left = np.mean([np.square(error(codec.get("tq2", dim, seed, "plain"), x)).sum(-1) for seed in range(60)])
        assert found < 1.25 * (math.pi / 2 - 1) * left
