"""Matrices that vectors of a layer are multiplied by on their way into and out of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tqc.errors import PassError

SIDES = {"k": ("key", "query"), "v": ("value", "output")}
"""The two matrices of each side of a cache: the one on the way in, and its inverse (for queries its transpose)."""

_TOLERANCE = 1e-3
_ORTHOGONAL = 1e-6


@dataclass(frozen=True, eq=False)
class Bases:
    """float32 [Hk, D, D] of one layer, all right factors: k' = k·key, q' = q·query, v' = v·value, y = y'·output.

    query is the inverse transpose of key, so that products stay what they are, and output the inverse of value. Of an
    orthogonal key, query may be the same array. A side without matrices has None.
    """

    key: np.ndarray | None = field(default=None, repr=False)
    query: np.ndarray | None = field(default=None, repr=False)
    value: np.ndarray | None = field(default=None, repr=False)
    output: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def of(cls, key: np.ndarray | None = None, value: np.ndarray | None = None) -> Bases:
        """From left factors A [Hk, D, D] as `tqc.codec.basis` has them, k' = A·k and v' = A·v; None: no matrices."""
        made: dict[str, np.ndarray] = {}
        if key is not None:
            made["key"] = _float32(key.swapaxes(1, 2))
            products = key.astype(np.float64) @ key.swapaxes(1, 2)
            is_orthogonal = np.abs(products - np.eye(key.shape[-1])).max() < _ORTHOGONAL
            made["query"] = made["key"] if is_orthogonal else _float32(np.linalg.inv(key.astype(np.float64)))
        if value is not None:
            made["value"] = _float32(value.swapaxes(1, 2))
            made["output"] = _float32(np.linalg.inv(value.astype(np.float64)).swapaxes(1, 2))
        return cls(**made)

    def has(self, side: str) -> bool:
        """Whether `side`, k or v, has matrices."""
        return getattr(self, SIDES[side][0]) is not None

    def check(self, side: str, kv_heads: int, head_dim: int, *, where: str = "") -> None:
        """Raises PassError unless the matrices of `side` have this shape, are float32 and inverse to each other."""
        into, back = (getattr(self, name) for name in SIDES[side])
        for name, array in zip(SIDES[side], (into, back), strict=True):
            shape = (kv_heads, head_dim, head_dim)
            if array is None or array.shape != shape or array.dtype != np.float32:
                found = "none" if array is None else f"{array.dtype} {array.shape}"
                raise PassError(f"the {name} basis does not fit", where=where, expected=f"float32 {shape}", found=found)
        product = into.astype(np.float64) @ (back.swapaxes(1, 2) if side == "k" else back)
        error = float(np.abs(product - np.eye(head_dim)).max())
        if not error <= _TOLERANCE:
            expected = "the inverse transpose of the key basis" if side == "k" else "the inverse of the value basis"
            raise PassError(
                f"wrong {SIDES[side][1]} basis", where=where, expected=expected, found=f"off by {error:.1e}"
            )


def basis_name(bases: Bases, layer: int, which: str) -> str:
    """The parameter that holds `which` (key, query, value, output); query shares key's if they are one array."""
    return f"layer{layer}.{'key' if which == 'query' and bases.query is bases.key else which}_basis"


def basis_arrays(bases: Mapping[int, Bases]) -> dict[str, np.ndarray]:
    """Every parameter that the bases of a model can become → its array."""
    return {
        basis_name(of_layer, layer, which): array
        for layer, of_layer in bases.items()
        for names in SIDES.values()
        for which in names
        if (array := getattr(of_layer, which)) is not None
    }


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
