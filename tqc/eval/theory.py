"""What a scheme loses of a vector whose direction is uniform, by the theory of its best scalar quantizers.

Codebooks and their errors: TurboQuant, arXiv:2504.19874, §3.1.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from tqc.codec.form import Band, Form
from tqc.codec.lloyd_max import beta_law, codebook
from tqc.codec.polar import LEVEL_BITS, angle_law, angles

MANTISSA = {"float32": 23, "float16": 10, "bfloat16": 7}
_POINTS = 100_001


def distortion(form: Form, exact_dtype: str = "float32") -> float:
    """E|x − x̃|² / E|x|² of vectors with isotropic directions, energy spread evenly over the dims.

    Codes with the unbiased scalar: see `code_loss`; with a sketch behind them: `plain_loss`. A sign sketch with
    m = c·n orthogonal rows of an n-dimensional residual multiplies its energy by (π/2 − 1)/c in the limit of large n
    (QJL, arXiv:2406.03482). Exact schemes lose the rounding from `exact_dtype`, the type of the exact tokens.
    """
    if form.kind == "exact":
        digits = MANTISSA[form.dtype]
        # The rounding of a mantissa m is uniform, and ln m too: E[1/m²] = 3 / (8 ln 2).
        return 0.0 if digits >= MANTISSA[exact_dtype] else 4.0**-digits / 12 * 3 / (8 * math.log(2))
    if form.kind == "polar":
        return polar_loss()
    left = np.ones(form.head_dim)
    for scale in {band.scale for band in form.bands if band.bits and not band.sketch}:
        bands = [band for band in form.bands if band.scale == scale and not band.sketch]
        parts = tuple((band.rows, band.bits) for band in bands)
        loss = plain_loss(parts) if form.scalar == "plain" else code_loss(parts)
        for band in bands:
            left[band.start : band.stop] = loss
    for band in form.bands:
        if band.sketch:
            first, dim = band.source
            left[first : first + dim] *= _sketch_loss(band)
    return float(left.mean())


@lru_cache
def code_loss(parts: tuple[tuple[int, int], ...]) -> float:
    """E[|ŷ|²/⟨y, ŷ⟩²] − 1 for a unit vector y whose codes ŷ have `parts` of (rows, bits), all with one scale.

    With the plain distortion D = E|y − ŷ|² the first order is D / (1 − D), as |ŷ|² and ⟨y, ŷ⟩ are both 1 − D on
    average. Their fluctuation takes up to 4 % off at 64 dims: it is added to second order, from the covariances of
    ŷᵢ² and yᵢŷᵢ given that the yᵢ² sum to 1.
    """
    dim = sum(rows for rows, _ in parts)
    law = beta_law(dim)
    at = np.linspace(-law.end, law.end, _POINTS)
    weight, y = law.weight(at), law.position(at)
    mean, covariance = np.zeros(3), np.zeros((3, 3))
    for rows, bits in parts:
        book = codebook(bits, dim)
        coded = book.centroids[np.searchsorted(book.thresholds, y)].astype(np.float64)
        values = np.stack([coded**2, y * coded, y**2])
        mean += rows * np.average(values, axis=1, weights=weight)
        covariance += rows * np.cov(values, aweights=weight, bias=True)
    covariance -= np.outer(covariance[2], covariance[2]) / covariance[2, 2]
    square, product = mean[:2]
    fluctuation = 3 * covariance[1, 1] / product**2 - 2 * covariance[0, 1] / (square * product)
    return float(square / product**2 * (1 + fluctuation) - 1)


@lru_cache
def plain_loss(parts: tuple[tuple[int, int], ...]) -> float:
    """E|y − ŷ|² of the same codes where the norm itself is stored: 1 − E|ŷ|², since every code is its cell's mean."""
    dim = sum(rows for rows, _ in parts)
    law = beta_law(dim)
    at = np.linspace(-law.end, law.end, _POINTS)
    weight, y = law.weight(at), law.position(at)
    kept = 0.0
    for rows, bits in parts:
        book = codebook(bits, dim)
        coded = book.centroids[np.searchsorted(book.thresholds, y)].astype(np.float64)
        kept += rows * float(np.average(coded**2, weights=weight))
    return 1 - kept


@lru_cache
def polar_loss() -> float:
    """2·(1 − ∏ E[cos Δ]) over the levels, Δ being the error of an angle: norms are kept, and the inner product of a
    block with its reconstruction is its energy times one such cosine for each level (PolarQuant, arXiv:2502.02617)."""
    product = 1.0
    for level in range(1, len(LEVEL_BITS) + 1):
        centres, thresholds = (array.astype(np.float64) for array in angles(level))
        if level == 1:
            at, weight = np.linspace(0, 2 * np.pi, _POINTS), np.ones(_POINTS)
        else:
            law = angle_law(level)
            offset = np.linspace(-law.end, law.end, _POINTS)
            at, weight = offset + np.pi / 4, law.weight(offset)
        error = at - centres[np.searchsorted(thresholds, at)]
        product *= float(np.average(np.cos(error), weights=weight))
    return 2 * (1 - product)


def _sketch_loss(band: Band) -> float:
    """The share of a residual's energy that is lost when it is estimated from its signs and norm."""
    dim = band.source[1]
    mean = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)  # E|u₁| on the unit sphere
    return (1 / (dim * mean**2) - 1) * dim / band.rows
