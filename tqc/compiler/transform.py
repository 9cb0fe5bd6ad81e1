"""The transform of vectors that are coded in bands: important directions first, numbers alike inside a band.

An error e of a vector costs eᵀ·W·e on average, W being the second moment of what the vector is multiplied with. In the
basis in which the vectors have unit covariance and W is diagonal, errors of different directions add up, each with its
eigenvalue λ: bits go where λ is large (reverse water-filling). Inside a band the best basis for codes of one width has
the λ^¼-fold of that scale, and a rotation makes its numbers alike. Every band wants a scale of its own: vectors of
other texts do not have unit covariance, and a common norm would spread what is too large in one band over all of them.
"""

from __future__ import annotations

import numpy as np

from tqc.codec import rotation
from tqc.codec.form import Form

SHRINKAGE = 0.05
"""How far moments are drawn towards a multiple of the identity: a text shows few of the directions that occur."""


def band_transform(stored: Form, moment: np.ndarray, weight: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """The left factor A, float64 [D, D], of vectors with second moment `moment` [D, D] whose errors cost `weight`.

    Without a weight all directions cost the same.
    """
    whiten, importance = joint_diagonal(moment, weight)
    parts = []
    for band in stored.bands:
        rows = slice(band.start, band.stop)
        balance = importance[rows] ** 0.25
        balance /= np.sqrt(np.square(balance).mean())
        parts.append(rotation.matrix(band.rows, seed) @ (balance[:, None] * whiten[rows]))
    return np.concatenate(parts)


def joint_diagonal(moment: np.ndarray, weight: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(A, λ): A·moment·Aᵀ = I and A⁻ᵀ·weight·A⁻¹ = diag(λ), λ falling; both moments shrunk first."""
    root = np.linalg.cholesky(_shrunk(moment))
    weight = np.eye(len(moment)) if weight is None else _shrunk(weight)
    importance, vectors = np.linalg.eigh(root.T @ weight @ root)
    return vectors[:, ::-1].T @ np.linalg.inv(root), np.maximum(importance[::-1], 0)


def _shrunk(moment: np.ndarray) -> np.ndarray:
    moment = (moment + moment.T) / 2
    size = np.trace(moment) / len(moment)
    # A head that is always zero has any basis.
    return (1 - SHRINKAGE) * moment + (SHRINKAGE * size or 1.0) * np.eye(len(moment))
