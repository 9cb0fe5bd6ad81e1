"""The random rotation that makes the coordinates of any vector look alike (TurboQuant, arXiv:2504.19874, §3.1).

One round is y = H·S·x / √d with random signs S and the Hadamard matrix H; without the signs a constant vector would
fall onto one coordinate. Where d = 2^k·m with odd m > 1, H becomes the Kronecker product of the 2^k Hadamard matrix and
an m × m Haar rotation. A second round brings inputs with very few nonzero coordinates to the theory's error too.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tqc.codec.limits import check_head_dim


@lru_cache
def _rounds(head_dim: int, seed: int, rounds: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(signs [head_dim], odd factor [m, m]) of each round, float64, read-only."""
    check_head_dim(head_dim)
    odd = head_dim // (head_dim & -head_dim)
    random = np.random.Generator(np.random.PCG64(seed))
    made = []
    for _ in range(rounds):
        signs = 1.0 - 2.0 * random.integers(0, 2, head_dim)
        factor, upper = np.linalg.qr(random.standard_normal((odd, odd)))
        factor = factor * np.sign(np.diag(upper)) if odd > 1 else np.ones((1, 1))  # the sign fix makes it Haar
        signs.flags.writeable = factor.flags.writeable = False
        made.append((signs, factor))
    return tuple(made)


def factors(head_dim: int, seed: int = 0, rounds: int = 1) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(signs [head_dim], odd factor [m, m]) of each round, float64, read-only: a round is
    H·(I ⊗ factor)·diag(signs)·x, H being the orthonormal 2^k Hadamard matrix over runs of m values."""
    return _rounds(head_dim, seed, rounds)


def _hadamard(x: np.ndarray) -> np.ndarray:
    """The orthonormal Walsh–Hadamard transform of axis 1 of x [n, 2^k, m]."""
    n, size, odd = x.shape
    width = 1
    while width < size:
        pairs = x.reshape(n, size // (2 * width), 2, width, odd)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        width *= 2
    return x.reshape(n, size, odd) * x.dtype.type(size**-0.5)


def _mix(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """x [n, 2^k, m] times factor.T on the last axis, summed in a fixed order: a row never depends on its batch."""
    if factor.shape == (1, 1):
        return x
    factor = factor.astype(x.dtype)
    return sum(x[..., j, None] * factor[:, j] for j in range(len(factor)))


def _rotate(x: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    dim = x.shape[-1]
    parts = _rounds(dim, seed, rounds)
    flat = x.reshape(x.size // dim, dim)
    for signs, factor in parts:
        cube = (flat * signs.astype(x.dtype)).reshape(len(flat), dim // len(factor), len(factor))
        flat = _hadamard(_mix(cube, factor)).reshape(flat.shape)
    return flat.reshape(x.shape)


def _unrotate(y: np.ndarray, seed: int, rounds: int) -> np.ndarray:
    dim = y.shape[-1]
    parts = _rounds(dim, seed, rounds)
    flat = y.reshape(y.size // dim, dim)
    for signs, factor in reversed(parts):
        cube = flat.reshape(len(flat), dim // len(factor), len(factor))
        flat = _mix(_hadamard(cube), factor.T).reshape(flat.shape) * signs.astype(y.dtype)
    return flat.reshape(y.shape)


def rotate(x: np.ndarray, seed: int = 0, rounds: int = 1) -> np.ndarray:
    """x [..., head_dim] rotated; float32 throughout. Raises CodecError if no codec takes the head_dim."""
    return _rotate(np.asarray(x, np.float32), seed, rounds)


def unrotate(y: np.ndarray, seed: int = 0, rounds: int = 1) -> np.ndarray:
    """The inverse of `rotate`: y [..., head_dim], float32 throughout."""
    return _unrotate(np.asarray(y, np.float32), seed, rounds)


@lru_cache
def matrix(head_dim: int, seed: int = 0, rounds: int = 1) -> np.ndarray:
    """The rotation as a matrix R, float64 [head_dim, head_dim], read-only: `rotate(x)` is `x @ R.T`."""
    check_head_dim(head_dim)
    made = np.ascontiguousarray(_rotate(np.eye(head_dim), seed, rounds).T)
    made.flags.writeable = False
    return made
