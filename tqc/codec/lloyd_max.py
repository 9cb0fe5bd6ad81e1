"""Lloyd–Max codebooks: the scalar quantizers that TurboQuant applies to every coordinate (arXiv:2504.19874, §3.1).

A coordinate of a random unit vector in R^d has density ∝ (1 − t²)^((d−3)/2) on [−1, 1]. Its best 2^b-level quantizer is
the fixed point "centroid = mean of its cell, threshold = midpoint of two centroids". Lloyd's sweeps approach it slowly
(thousands of sweeps at 4 bits), so a few of them only prepare the start of Newton's method. The law is log-concave, so
the fixed point is unique and the Newton matrix tridiagonal and diagonally dominant.

With t = sin θ the density becomes cos^(d−2) θ: analytic on each cell, so Gauss–Legendre quadrature is exact
to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from tqc.codec.limits import check_bits, check_head_dim

_TAIL = 12.0  # standard deviations; what lies beyond weighs e^-72
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_SWEEPS = 20
_NEWTON_STEPS = 30
_CONVERGED = 4e-16


class Codebook(NamedTuple):
    """`centroids` float32 [2**bits], ascending and antisymmetric; `thresholds` float32 [2**bits - 1], midpoints."""

    centroids: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Law:
    """A symmetric density on the line, `weight(s)` ds at the place `position(s)` for s in [−end, end]; any mass."""

    weight: Callable[[np.ndarray], np.ndarray]
    position: Callable[[np.ndarray], np.ndarray]
    parameter: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    end: float
    start: Callable[[np.ndarray], np.ndarray]

    def cells(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mass, mean, density at the thresholds) of the cells of the positive half that `thresholds` cut."""
        edges = np.concatenate([[0.0], self.parameter(thresholds), [self.end]])
        half = np.diff(edges)[:, None] / 2
        at = edges[:-1, None] + half * (1 + _NODES)
        weight = self.weight(at) * _WEIGHTS * half
        mass = weight.sum(axis=1)
        mean = (weight * self.position(at)).sum(axis=1) / mass
        inner = edges[1:-1]
        return mass, mean, self.weight(inner) / self.slope(inner)


def beta_law(dim: int) -> Law:
    """The law of one coordinate of a uniform unit vector in R^dim, dim ≥ 3; the parameter is the latitude θ."""
    return Law(
        weight=lambda s: np.cos(s) ** (dim - 2),
        position=np.sin,
        parameter=np.arcsin,
        slope=np.cos,
        end=min(np.pi / 2, _TAIL / np.sqrt(dim - 2)),
        start=lambda g: g / np.sqrt(dim + g * g),
    )


def gaussian_law() -> Law:
    """N(0, 1)."""
    return Law(
        weight=lambda s: np.exp(-s * s / 2),
        position=lambda s: s,
        parameter=lambda s: s,
        slope=np.ones_like,
        end=_TAIL,
        start=lambda g: g,
    )


def fixed_point(law: Law, bits: int) -> np.ndarray:
    """The Lloyd–Max centroids of `law` above 0, ascending: float64 [2**(bits-1)]; the others are their negatives."""
    levels = 2**bits
    panter_dite = NormalDist(0, 3**0.5)  # its density is that of the centroids when there are many of them
    quantiles = np.array([panter_dite.inv_cdf((i + 0.5) / levels) for i in range(levels // 2, levels)])
    centroids = law.start(quantiles)
    for _ in range(_SWEEPS):
        centroids = law.cells(_midpoints(centroids))[1]
    for _ in range(_NEWTON_STEPS):
        step = _newton_step(law, centroids)
        centroids = centroids - step
        if np.abs(step).max() <= _CONVERGED * centroids[-1]:
            break
    return centroids


def _midpoints(centroids: np.ndarray) -> np.ndarray:
    return (centroids[:-1] + centroids[1:]) / 2


def _newton_step(law: Law, centroids: np.ndarray) -> np.ndarray:
    """What Newton's method on `centroids − means = 0` subtracts from the centroids."""
    thresholds = _midpoints(centroids)
    mass, mean, density = law.cells(thresholds)
    by_lower = density * (mean[1:] - thresholds) / mass[1:] / 2
    by_upper = density * (thresholds - mean[:-1]) / mass[:-1] / 2
    diagonal = np.ones_like(centroids)
    diagonal[1:] -= by_lower
    diagonal[:-1] -= by_upper
    return _solve_tridiagonal(-by_lower, diagonal, -by_upper, centroids - mean)


def _solve_tridiagonal(lower: np.ndarray, diagonal: np.ndarray, upper: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Thomas algorithm: plain arithmetic in a fixed order, so that the bytes never depend on a BLAS."""
    diagonal, right = diagonal.copy(), right.copy()
    for i in range(1, len(right)):
        factor = lower[i - 1] / diagonal[i - 1]
        diagonal[i] -= factor * upper[i - 1]
        right[i] -= factor * right[i - 1]
    right[-1] /= diagonal[-1]
    for i in range(len(right) - 2, -1, -1):
        right[i] = (right[i] - upper[i] * right[i + 1]) / diagonal[i]
    return right


def _mirror(positive: np.ndarray) -> Codebook:
    centroids = np.concatenate([-positive[::-1], positive])
    book = Codebook(centroids.astype(np.float32), _midpoints(centroids).astype(np.float32))
    for array in book:
        array.flags.writeable = False
    return book


@lru_cache
def codebook(bits: int, head_dim: int) -> Codebook:
    """The codebook for one coordinate of a unit vector in R^head_dim, on the unit vector's scale; read-only arrays.

    Raises CodecError unless 1 ≤ bits ≤ 8 and head_dim is a multiple of 16 from 16 to 512.
    """
    check_head_dim(head_dim)
    check_bits(bits)
    return _mirror(fixed_point(beta_law(head_dim), bits))


@lru_cache
def gaussian_codebook(bits: int) -> Codebook:
    """The codebook for N(0, 1), read-only arrays. Raises CodecError unless 1 ≤ bits ≤ 8."""
    check_bits(bits)
    return _mirror(fixed_point(gaussian_law(), bits))
