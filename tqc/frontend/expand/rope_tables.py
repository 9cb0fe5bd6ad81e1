"""The frequencies behind tables of cosines and sines, found exactly enough to rebuild every entry.

A table holds a·cos(n·f) and a·sin(n·f) in row n (Su et al. 2021, §3.4.2; a is the "mscale" of YaRN and LongRoPE).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

_NEARBY = (0, -1, 1, -2, 2, -3, 3)
"""Steps to neighbouring float32 numbers that are tried as the frequency."""
_SAMPLE = 256
_CHUNK = 1 << 13


class NoRotation(ValueError):
    """The tables are no rotation by the row number times a frequency per column."""


def frequencies(cos: np.ndarray, sin: np.ndarray) -> tuple[np.ndarray, float]:
    """f [half] float32 and the factor a of tables [rows, half].

    Every entry is verified: a·cos(n·f), with the product n·f rounded to float32 or not, must be the table's entry
    rounded to the table's type. Raises NoRotation.
    """
    if cos.ndim != 2 or cos.shape != sin.shape or len(cos) < 2:
        raise NoRotation(f"shapes are {list(cos.shape)} and {list(sin.shape)}")
    resolution = _resolution(cos, sin)
    table = cos.astype(np.float64) + 1j * sin.astype(np.float64)
    scaling = _scaling(table, resolution)
    exact = _slopes(table)
    rows = np.unique(np.geomspace(1, len(table) - 1, _SAMPLE).astype(np.int64))
    found = _nearest(table[rows] / scaling, rows, exact)
    for start in range(0, len(table), _CHUNK):
        part = table[start : start + _CHUNK]
        _verify(part, np.arange(start, start + len(part)), found, scaling, resolution)
    return found, scaling


def _resolution(cos: np.ndarray, sin: np.ndarray) -> float:
    """The distance of 1 to the next number of the type the tables were rounded to, be they wider now."""
    kinds = (ml_dtypes.bfloat16, np.float16, np.float32)
    fits = (k for k in kinds if all(np.array_equal(t.astype(k).astype(np.float64), t) for t in (cos, sin)))
    return float(ml_dtypes.finfo(next(fits, np.float64)).eps)


def _scaling(table: np.ndarray, resolution: float) -> float:
    length = np.abs(table)
    scaling = float(length.mean())
    if not scaling > 0 or np.abs(length / scaling - 1).max() > 2 * resolution:
        raise NoRotation(f"lengths of (cos, sin) go from {length.min():g} to {length.max():g}")
    return 1.0 if abs(scaling - 1) < resolution else scaling


def _slopes(table: np.ndarray) -> np.ndarray:
    """The change of the angle per row, [half] float64: from the first row, then refined over ever more rows."""
    slope = np.angle(table[1] * table[0].conj())
    step = 1
    while step * 2 < len(table):
        step *= 2
        slope = slope + np.angle(table[step] * np.exp(-1j * slope * step)) / step
    rows = np.unique(np.linspace(1, len(table) - 1, 16 * _SAMPLE).astype(np.int64))[:, None].astype(np.float64)
    rest = np.angle(table[rows[:, 0].astype(np.int64)] * np.exp(-1j * rows * slope))
    return slope + (rows * rest).sum(0) / (rows**2).sum()


def _angles(rows: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Row times frequency as the runtime computes it, in float32."""
    return (rows.astype(np.float32)[:, None] * frequency).astype(np.float64)


def _nearest(table: np.ndarray, rows: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The float32 numbers near `exact` that come closest to the table of unit vectors at these rows."""
    centre = exact.astype(np.float32)
    candidates = np.stack([centre + np.float32(step) * np.spacing(centre) for step in _NEARBY])
    errors = [np.abs(np.exp(1j * _angles(rows, row)) - table).mean(0) for row in candidates]
    return np.take_along_axis(candidates, np.argmin(errors, axis=0)[None], axis=0)[0]


def _verify(table: np.ndarray, rows: np.ndarray, found: np.ndarray, scaling: float, resolution: float) -> None:
    angle = _angles(rows, found)
    error = np.abs(scaling * np.exp(1j * angle) - table)
    # Whoever wrote the table may have rounded the angle to float32, or not.
    allowed = scaling * (resolution + np.abs(angle) * np.finfo(np.float32).eps) + 1e-6
    if (error > allowed).any():
        row, column = (int(i[0]) for i in np.nonzero(error > allowed))
        raise NoRotation(f"row {rows[row]}, column {column} is off by {error[row, column]:.2g}")
