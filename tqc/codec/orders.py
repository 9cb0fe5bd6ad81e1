"""The two orders of a page's elements, by the same names: `lanes` (layout.py) and `fragments` (fragments.py)."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tqc.codec import fragments, pages


class Order(Protocol):
    """How codes, exact values and scales of a page [..., page, rows] are laid out."""

    word: np.dtype
    """Of the array that the runtime holds codes in."""

    def pack(self, codes: np.ndarray, bits: int, side: str) -> np.ndarray:
        """Codes uint8 [..., page, rows] → uint16 [..., page·rows·bits/16]."""

    def unpack(self, units: np.ndarray, bits: int, rows: int, side: str) -> np.ndarray:
        """The inverse of `pack`."""

    def pack_exact(self, values: np.ndarray, side: str) -> np.ndarray:
        """Values [..., page, rows] → [..., page·rows]."""

    def unpack_exact(self, stored: np.ndarray, rows: int, side: str) -> np.ndarray:
        """The inverse of `pack_exact`."""

    def tokens(self, page: int) -> np.ndarray:
        """The token of each stored number of a scale, int [page]."""


class Lanes:
    """Units along rows for keys, along tokens for values, so that a vector lane holds one token or one row."""

    word = np.dtype(np.uint16)

    def pack(self, codes: np.ndarray, bits: int, side: str) -> np.ndarray:
        return (pages.pack_k if side == "k" else pages.pack_v)(codes, bits)

    def unpack(self, units: np.ndarray, bits: int, rows: int, side: str) -> np.ndarray:
        return (pages.unpack_k if side == "k" else pages.unpack_v)(units, bits, rows)

    def pack_exact(self, values: np.ndarray, side: str) -> np.ndarray:
        x = np.ascontiguousarray(values.swapaxes(-1, -2) if side == "k" else values)
        return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])

    def unpack_exact(self, stored: np.ndarray, rows: int, side: str) -> np.ndarray:
        lead, page = stored.shape[:-1], stored.shape[-1] // rows
        if side == "v":
            return stored.reshape(*lead, page, rows)
        return np.ascontiguousarray(stored.reshape(*lead, rows, page).swapaxes(-1, -2))

    def tokens(self, page: int) -> np.ndarray:
        return np.arange(page)


class Fragments:
    """Fragments of the tensor cores' instruction; codes are uint32."""

    word = np.dtype(np.uint32)

    def pack(self, codes: np.ndarray, bits: int, side: str) -> np.ndarray:
        return fragments.pack(codes, bits, side).view(np.uint16)

    def unpack(self, units: np.ndarray, bits: int, rows: int, side: str) -> np.ndarray:
        return fragments.unpack(np.ascontiguousarray(units).view(np.uint32), bits, rows, side)

    def pack_exact(self, values: np.ndarray, side: str) -> np.ndarray:
        return fragments.pack_exact(values, side)

    def unpack_exact(self, stored: np.ndarray, rows: int, side: str) -> np.ndarray:
        return fragments.unpack_exact(stored, rows, side)

    def tokens(self, page: int) -> np.ndarray:
        return fragments.scale_order()


ORDERS: dict[str, Order] = {"lanes": Lanes(), "fragments": Fragments()}
