"""TurboQuant's error against theory and published measurements; every number is relative to ‖x‖²."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.codec.lloyd_max import gaussian_codebook
from tqc.codec.rotation import rotate
from tqc.codec.turboquant import TurboQuant

THEORY = {  # bits 1 … 4
    64: [0.35839, 0.11453, 0.03339, 0.009132],
    80: [0.35939, 0.11512, 0.03362, 0.009204],
    96: [0.36006, 0.11551, 0.03377, 0.009253],
    128: [0.36089, 0.11600, 0.03397, 0.009315],
    256: [0.36214, 0.11674, 0.03426, 0.009408],
}
TOLERANCE = [0.01, 0.01, 0.02, 0.02]


def haar(dim: int, random: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(random.standard_normal((dim, dim)))
    return q * np.sign(np.diag(r))


def gaussian(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    return random.standard_normal((count, dim))


def one_hot(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    return np.eye(dim)[random.integers(0, dim, count)]


def lognormal(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    return random.lognormal(size=(count, dim)) * random.choice([-1, 1], (count, dim))


def outlier_channels(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    x = random.standard_normal((count, dim))
    x[:, random.choice(dim, 4, replace=False)] *= 20
    return x


def rotated_error(codec: TurboQuant, z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float32)
    lost = codec.dequantize_rotated(*codec.quantize_rotated(z)) - z
    return (lost**2).sum(axis=1) / (z**2).sum(axis=1)


def error(codec: TurboQuant, x: np.ndarray) -> np.ndarray:
    return ((codec.decode(codec.encode(x)) - x) ** 2).sum(axis=1) / (x**2).sum(axis=1)


@pytest.mark.parametrize("dim", THEORY)
def test_gaussian_vectors_have_the_error_of_theory(dim: int) -> None:
    random = np.random.default_rng(dim)
    x, turn = gaussian(random, 4000, dim), haar(dim, random)
    for bits in range(1, 5):
        codec = TurboQuant(bits, dim, scalar="plain")
        expected = pytest.approx(THEORY[dim][bits - 1], rel=TOLERANCE[bits - 1])
        assert rotated_error(codec, x @ turn.T).mean() == expected
        assert error(codec, x).mean() == expected


@pytest.mark.parametrize("make", [one_hot, lognormal, outlier_channels])
@pytest.mark.parametrize("dim", [64, 128])
def test_structured_vectors_have_it_too_over_haar_rotations(dim: int, make) -> None:
    random = np.random.default_rng(dim)
    z = np.concatenate([make(random, 16, dim) @ haar(dim, random).T for _ in range(250)])
    for bits in range(1, 5):
        mean = rotated_error(TurboQuant(bits, dim, scalar="plain"), z).mean()
        assert mean == pytest.approx(THEORY[dim][bits - 1], rel=0.02)


@pytest.mark.parametrize("make", [lognormal, outlier_channels])
@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
def test_one_hadamard_round_is_no_worse_on_structured_vectors(dim: int, make) -> None:
    random = np.random.default_rng(dim)
    for bits in range(1, 5):
        means = [error(TurboQuant(bits, dim, seed, scalar="plain"), make(random, 40, dim)).mean() for seed in range(60)]
        assert 0.75 <= np.mean(means) / THEORY[dim][bits - 1] <= 1.03


def test_error_falls_at_the_rate_of_theory() -> None:
    x = gaussian(np.random.default_rng(0), 2000, 128)
    means = np.array([error(TurboQuant(bits, 128, scalar="plain"), x).mean() for bits in range(1, 9)])
    product = means * 4.0 ** np.arange(1, 9)
    assert (np.diff(means) < 0).all()
    assert (np.diff(product[:6]) > 0).all()  # above 6 bits it grows by less than the noise of 2,000 vectors
    assert product.min() >= 1
    assert product.max() <= 2.7207


@pytest.mark.parametrize(
    ("scalar", "slopes", "errors"),
    [
        ("plain", [0.639, 0.884, 0.966, 0.9907], [0.361, 0.116, 0.0340, 0.0093]),
        ("norm", [0.7995, 0.9407, 0.9831, 0.9954], [0.404, None, None, None]),
        ("unbiased", [1, 1, 1, 1], [0.565, 0.131, 0.0352, 0.0094]),
    ],
)
def test_slopes_and_errors_of_the_scalars(scalar: str, slopes: list[float], errors: list[float | None]) -> None:
    x = gaussian(np.random.default_rng(1), 20_000, 128).astype(np.float32)
    for bits, slope, expected in zip(range(1, 5), slopes, errors, strict=True):
        codec = TurboQuant(bits, 128, scalar=scalar)
        found = codec.decode(codec.encode(x))
        norms = (x * x).sum(axis=1)
        assert ((found * x).sum(axis=1) / norms).mean() == pytest.approx(slope, abs=0.003)
        if expected is not None:
            assert (((found - x) ** 2).sum(axis=1) / norms).mean() == pytest.approx(expected, rel=0.02)


def test_one_hot_needs_a_second_round() -> None:
    codec = TurboQuant(2, 128, scalar="plain")
    once = [rotated_error(codec, rotate(np.eye(128)[:8], seed)).mean() for seed in range(20)]
    twice = [rotated_error(codec, rotate(np.eye(128)[:8], seed, rounds=2)).mean() for seed in range(250)]
    largest = gaussian_codebook(2).centroids[-1]
    assert (1 - largest) ** 2 == pytest.approx(0.2605, abs=0.0005)  # as published, with the Gaussian codebook
    np.testing.assert_allclose(once, 0.2552, atol=0.0005)  # (1 − √128 · 0.133042)²
    assert np.mean(twice) == pytest.approx(0.118, abs=0.005)


def test_constant_vectors_need_the_signs() -> None:
    codec = TurboQuant(3, 128, scalar="plain")
    constant = np.ones((1, 128))
    signed = [error(TurboQuant(3, 128, seed, scalar="plain"), constant).item() for seed in range(400)]
    assert np.mean(signed) == pytest.approx(0.037, abs=0.002)
    assert min(signed) > 0.02
    assert max(signed) < 0.15
    collapsed = np.eye(128)[:1] * np.sqrt(128)  # what a Hadamard matrix without signs makes of them
    assert rotated_error(codec, collapsed).item() == pytest.approx(0.718, abs=0.001)
