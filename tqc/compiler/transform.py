"""The transform of vectors that are coded in bands: important directions first, alike inside a band."""

from __future__ import annotations

import numpy as np

from tqc.codec import rotation
from tqc.codec.form import Form


def band_transform(stored: Form, moment: np.ndarray, weight: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """The left factor A, float64 [D, D], in which a vector with second moment `moment` [D, D] enters the cache.

    Directions are the eigenvectors of moment^½ · weight · moment^½ brought back (of the moment alone without a
    weight), largest first; inside each band they are rotated so that its numbers look alike. A is orthogonal.
    """
    values, vectors = np.linalg.eigh(moment)
    if weight is not None:
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        _, mixed = np.linalg.eigh(root @ weight @ root)
        vectors, _ = np.linalg.qr(root @ mixed[:, ::-1])
    else:
        vectors = vectors[:, ::-1]
    rows = vectors.T
    return np.concatenate([rotation.matrix(band.rows, seed) @ rows[band.start : band.stop] for band in stored.bands])
