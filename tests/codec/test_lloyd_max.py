"""The codebooks against published numbers and against the equations they must solve."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from tqc.codec import lloyd_max
from tqc.codec.lloyd_max import beta_law, codebook, fixed_point, gaussian_codebook, gaussian_law
from tqc.errors import CodecError

HEAD_DIMS = (16, 64, 80, 96, 128, 256, 512)

GAUSSIAN = {
    1: [0.797885],
    2: [0.452780, 1.510418],
    3: [0.245094, 0.756005, 1.343909, 2.151946],
    4: [0.128395, 0.388048, 0.656759, 0.942340, 1.256231, 1.618046, 2.069017, 2.732590],
    5: [
        *(0.065890, 0.198052, 0.331378, 0.466700, 0.604934, 0.747136, 0.894565, 1.048783),
        *(1.211804, 1.386340, 1.576228, 1.787233, 2.028728, 2.317739, 2.691120, 3.260732),
    ],
}
GAUSSIAN_THRESHOLDS = {
    2: [0.981599],
    3: [0.500550, 1.049957, 1.747927],
    4: [0.258222, 0.522404, 0.799550, 1.099286, 1.437139, 1.843532, 2.400803],
}
BETA = {
    (64, 1): [0.100126],
    (64, 2): [0.056515, 0.187497],
    (64, 3): [0.030469, 0.093832, 0.166168, 0.263914],
    (64, 4): [0.015919, 0.048090, 0.081312, 0.116487, 0.154926, 0.198856, 0.252914, 0.330796],
    (128, 1): [0.070662],
    (128, 2): [0.039992, 0.133042],
    (128, 3): [0.021604, 0.066586, 0.118140, 0.188397],
    (128, 4): [0.011302, 0.034152, 0.057772, 0.082828, 0.110288, 0.141805, 0.180836, 0.237664],
    (256, 1): [0.049917],
    (256, 2): [0.028289, 0.094238],
    (256, 3): [0.015297, 0.047167, 0.083765, 0.133854],
    (256, 4): [0.008008, 0.024201, 0.040949, 0.058732, 0.078249, 0.100698, 0.128588, 0.169410],
}
DISTORTION = {
    32: [0.35336, 0.11160, 0.03226, 0.008774],
    64: [0.35839, 0.11453, 0.03339, 0.009132, 0.002399],
    80: [0.35939, 0.11512, 0.03362, 0.009204],
    96: [0.36006, 0.11551, 0.03377, 0.009253],
    128: [0.36089, 0.11600, 0.03397, 0.009315, 0.002451],
    256: [0.36214, 0.11674, 0.03426, 0.009408],
}


def distortion(bits: int, dim: int) -> float:
    """dim · E(t − quantized t)² by the midpoint rule on latitudes."""
    theta = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    theta = theta[theta < 14 / np.sqrt(dim)]
    weight, t = np.cos(theta) ** (dim - 2), np.sin(theta)
    book = codebook(bits, dim)
    quantized = book.centroids.astype(np.float64)[np.searchsorted(book.thresholds, t)]
    return dim * (weight * (t - quantized) ** 2).sum() / weight.sum()


def simpson_mean(density, low: float, high: float) -> float:
    at = np.linspace(low, high, 4001)
    weight = np.ones(4001)
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    weight *= density(at)
    return (weight * at).sum() / weight.sum()


@pytest.mark.parametrize("bits", GAUSSIAN)
def test_gaussian_centroids_are_the_published_ones(bits: int) -> None:
    book = gaussian_codebook(bits)
    np.testing.assert_allclose(book.centroids[2 ** (bits - 1) :], GAUSSIAN[bits], atol=1e-5, rtol=0)
    if bits in GAUSSIAN_THRESHOLDS:
        np.testing.assert_allclose(book.thresholds[2 ** (bits - 1) :], GAUSSIAN_THRESHOLDS[bits], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dim", "bits"), BETA)
def test_beta_centroids_are_the_published_ones(dim: int, bits: int) -> None:
    np.testing.assert_allclose(codebook(bits, dim).centroids[2 ** (bits - 1) :], BETA[dim, bits], atol=2e-6, rtol=0)


@pytest.mark.parametrize("dim", DISTORTION)
def test_distortion_is_the_published_one(dim: int) -> None:
    found = [distortion(bits, dim) for bits in range(1, len(DISTORTION[dim]) + 1)]
    np.testing.assert_allclose(found, DISTORTION[dim], rtol=3e-4)


@pytest.mark.parametrize("dim", HEAD_DIMS)
def test_rate_law(dim: int) -> None:
    error = np.array([distortion(bits, dim) for bits in range(1, 9)])
    product = error * 4.0 ** np.arange(1, 9)
    assert (np.diff(error) < 0).all()
    assert (np.diff(product) > 0).all()
    assert product.min() >= 1
    assert product.max() <= np.sqrt(3) * np.pi / 2  # the Panter–Dite limit, 2.7207


@pytest.mark.parametrize("dim", [*HEAD_DIMS, None])
@pytest.mark.parametrize("bits", range(1, 9))
def test_centroids_are_the_means_of_their_cells(bits: int, dim: int | None) -> None:
    law = gaussian_law() if dim is None else beta_law(dim)
    centroids = fixed_point(law, bits)
    edges = [0.0, *(centroids[:-1] + centroids[1:]) / 2, 12.0 if dim is None else min(1.0, 12 / np.sqrt(dim))]

    def density(t: np.ndarray) -> np.ndarray:
        return np.exp(-t * t / 2) if dim is None else np.maximum(1 - t * t, 0) ** ((dim - 3) / 2)

    means = [simpson_mean(density, low, high) for low, high in pairwise(edges)]
    assert np.abs(means - centroids).max() < 1e-9


@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_shape_order_and_symmetry(bits: int, dim: int) -> None:
    centroids, thresholds = codebook(bits, dim)
    assert centroids.dtype == thresholds.dtype == np.float32
    assert (centroids.shape, thresholds.shape) == ((2**bits,), (2**bits - 1,))
    np.testing.assert_array_equal(centroids, -centroids[::-1])
    np.testing.assert_array_equal(thresholds, -thresholds[::-1])
    assert (centroids[:-1] < thresholds).all()
    assert (thresholds < centroids[1:]).all()
    assert centroids[-1] < 1
    middle = (centroids[:-1].astype(np.float64) + centroids[1:]) / 2
    np.testing.assert_allclose(thresholds, middle, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dim", [16, 128])
def test_no_cell_is_empty(dim: int) -> None:
    x = np.random.default_rng(0).standard_normal((20_000, dim))
    y = (x / np.linalg.norm(x, axis=1, keepdims=True)).ravel()
    counts = np.bincount(np.searchsorted(codebook(6, dim).thresholds, y), minlength=64)
    assert counts.min() > 0


def test_every_head_dim_has_every_codebook() -> None:
    for dim in range(16, 513, 16):
        assert np.isfinite(fixed_point(beta_law(dim), 5)).all()


def test_same_bytes_in_every_process() -> None:
    script = (
        "import hashlib; from tqc.codec.lloyd_max import codebook\n"
        "books = [a for b in range(1, 9) for d in (16, 80, 512) for a in codebook(b, d)]\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in books)).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_cached_arrays_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        lloyd_max.codebook(4, 64).centroids[0] = 0


@pytest.mark.parametrize(("bits", "dim"), [(0, 64), (9, 64), (4, 0), (4, 40), (4, 528)])
def test_reject_out_of_range(bits: int, dim: int) -> None:
    with pytest.raises(CodecError):
        codebook(bits, dim)
