"""The types of PTX and how a register holds them."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class Kind:
    """A type of PTX. name: as PTX writes it; dtype: how NumPy sees one value; packed types are seen as a whole word."""

    name: str
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return self.dtype.itemsize

    @property
    def signed(self) -> bool:
        return self.dtype.kind == "i"

    @property
    def floating(self) -> bool:
        return self.name in ("f16", "bf16", "f32", "f64")


RAW = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16), 4: np.dtype(np.uint32), 8: np.dtype(np.uint64)}
"""The unsigned integer of a size in bytes."""


def ones(size: int) -> np.unsignedinteger:
    """The unsigned integer of `size` bytes whose bits are all ones."""
    return RAW[size].type((1 << (8 * size)) - 1)


_DTYPES: dict[str, type] = {
    **{f"{sign}{8 * size}": dtype.type for size, dtype in RAW.items() for sign in "bu"},
    **{f"s{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64},
    **{"f16x2": np.uint32, "bf16x2": np.uint32, "u16x2": np.uint32, "s16x2": np.uint32, "tf32": np.uint32},
    **{"e4m3x2": np.uint16, "e5m2x2": np.uint16, "pred": np.bool_},
}
KINDS = {name: Kind(name, np.dtype(dtype)) for name, dtype in _DTYPES.items()}
