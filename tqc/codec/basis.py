"""The basis in which vectors enter the cache where the shared rotation is not it: a matrix for each KV head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tqc.codec import rotation
from tqc.codec.form import Form
from tqc.codec.scheme import is_bands
from tqc.errors import CodecError


def split_basis(form: Form, outliers: Sequence[int] | None = None, seed: int = 0) -> np.ndarray:
    """The orthogonal matrix A, float64 [head_dim, head_dim], of a scheme that keeps outlier channels apart: A·x has
    the channels `outliers` of x first, then the others in order. tq2.5 and tq3.5 rotate both parts, each in itself
    (arXiv:2504.19874, §4.3); QJL leaves them as they are, its sketches mix them.

    `outliers`: channels, as many as the scheme has, in any order; None: the first ones. `seed`: that of the cache.
    Raises CodecError for a scheme that splits no channels, and for other channels.
    """
    sizes = _parts(form)
    chosen = list(range(sizes[0])) if outliers is None else [int(channel) for channel in outliers]
    if len(chosen) != sizes[0] or len(set(chosen)) != sizes[0] or not set(chosen) <= set(range(form.head_dim)):
        raise CodecError(
            "these are not the outlier channels of this scheme",
            where=form.scheme,
            expected=f"{sizes[0]} different channels below {form.head_dim}",
            found=str(chosen),
        )
    order = chosen + [channel for channel in range(form.head_dim) if channel not in set(chosen)]
    basis = np.eye(form.head_dim)[order]
    if form.sketch_rows:
        return basis
    first, second = np.split(basis, [sizes[0]])
    return np.concatenate([rotation.matrix(len(part), seed) @ part for part in (first, second)])


def splits(form: Form) -> bool:
    """Whether the scheme keeps outlier channels apart."""
    return form.basis == "matrix" and not is_bands(form.scheme)


def _parts(form: Form) -> tuple[int, int]:
    """Rows of the outliers and of the other channels."""
    if not splits(form):
        raise CodecError("this scheme splits no channels", expected="tq2.5, tq3.5 or qjl1o to qjl3o", found=form.scheme)
    first, second = (band.source[1] if band.sketch else band.rows for band in form.coded_bands)
    return first, second


def check_matrix(form: Form, matrix: np.ndarray) -> np.ndarray:
    """`matrix` as float64. Raises CodecError if the scheme takes none, on another shape, or if it has no inverse."""
    matrix = np.asarray(matrix, np.float64)
    size = (form.head_dim, form.head_dim)
    if form.basis != "matrix":
        raise CodecError("this scheme takes no basis", expected="bands, tq2.5, tq3.5 or qjl…o", found=form.scheme)
    if matrix.shape != size or not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < form.head_dim:
        raise CodecError("this is no basis", expected=f"an invertible matrix of {size}", found=f"{matrix.shape}")
    return matrix


def apply(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """matrix [M, N] · x [..., N]: float32 [..., M], summed in a fixed order, so that a row never depends on its
    batch."""
    x, matrix = np.asarray(x, np.float32), matrix.astype(np.float32)
    out = np.zeros((*x.shape[:-1], len(matrix)), np.float32)
    for column in range(x.shape[-1]):
        out += x[..., column, None] * matrix[:, column]
    return out
