"""The random projections S behind sign sketches (QJL, arXiv:2406.03482; second stage of TurboQuant-prod).

S is orthogonal in chunks: chunk number i of a sketch of `dim` source dims is a signed Hadamard rotation of two rounds,
with a seed of its own, so that kernels can apply it without a matrix. With orthogonal chunks the estimate of an inner
product has π/2 − 1 times the variance that the codes' error has, with Gaussian rows π/2 times.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tqc.codec import rotation
from tqc.codec.form import Band, Form

ROUNDS = 2
_FIRST_SEED = 1_000_003  # far from the seeds of the cache's rotation


def chunk_seeds(form: Form, band: Band, seed: int = 0) -> tuple[int, ...]:
    """The seeds of the rotations of a sketch band, one for each `band.source[1]` rows. `seed`: that of the cache."""
    count = band.rows // band.source[1]
    before = sum(b.rows // b.source[1] for b in form.bands if b.sketch and b.start < band.start)
    return tuple(_FIRST_SEED * (seed + 1) + before + chunk for chunk in range(count))


@lru_cache
def matrix(form: Form, seed: int = 0) -> np.ndarray:
    """S of all sketch bands, float64 [sketch_rows, head_dim], read-only; rows are orthonormal in chunks."""
    made = np.zeros((form.sketch_rows, form.head_dim))
    for band in form.bands:
        if band.sketch:
            first, dim = band.source
            for i, chunk_seed in enumerate(chunk_seeds(form, band, seed)):
                row = band.start - form.head_dim + i * dim
                made[row : row + dim, first : first + dim] = rotation.matrix(dim, chunk_seed, ROUNDS)
    made.flags.writeable = False
    return made


def project(x: np.ndarray, form: Form, seed: int = 0) -> np.ndarray:
    """x [..., head_dim] → S·x, float32 [..., sketch_rows]."""
    parts = [
        rotation.rotate(np.asarray(x, np.float32)[..., band.source[0] : sum(band.source)], chunk_seed, ROUNDS)
        for band in form.bands
        if band.sketch
        for chunk_seed in chunk_seeds(form, band, seed)
    ]
    return np.concatenate(parts, axis=-1) if parts else np.zeros((*np.shape(x)[:-1], 0), np.float32)


def fold(y: np.ndarray, form: Form, seed: int = 0) -> np.ndarray:
    """y [..., sketch_rows] → Sᵀ·y, float32 [..., head_dim]."""
    y = np.asarray(y, np.float32)
    out = np.zeros((*y.shape[:-1], form.head_dim), np.float32)
    for band in form.bands:
        if band.sketch:
            first, dim = band.source
            for i, chunk_seed in enumerate(chunk_seeds(form, band, seed)):
                row = band.start - form.head_dim + i * dim
                out[..., first : first + dim] += rotation.unrotate(y[..., row : row + dim], chunk_seed, ROUNDS)
    return out


@lru_cache
def gaussian_matrix(form: Form, seed: int = 0) -> np.ndarray:
    """S as the papers have it, entries independent N(0, 1): float64 [sketch_rows, head_dim], read-only."""
    random = np.random.Generator(np.random.PCG64([_FIRST_SEED, seed]))
    made = np.zeros((form.sketch_rows, form.head_dim))
    for band in form.bands:
        if band.sketch:
            rows = slice(band.start - form.head_dim, band.stop - form.head_dim)
            made[rows, band.source[0] : sum(band.source)] = random.standard_normal((band.rows, band.source[1]))
    made.flags.writeable = False
    return made
