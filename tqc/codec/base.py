"""What every codec offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import numpy as np

from tqc.codec.limits import check_head_dim
from tqc.errors import CodecError


@dataclass(frozen=True, eq=False)
class Encoded:
    """Encoded vectors. Subclasses have NumPy arrays as fields, whose leading dims are those of the vectors."""

    @property
    def nbytes(self) -> int:
        """Bytes of all fields together."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


class Codec(ABC):
    """Turns vectors of `head_dim` floats into codes and back; a vector's codes never depend on its neighbours."""

    def __init__(self, name: str, head_dim: int) -> None:
        check_head_dim(head_dim)
        self.name = name
        self.head_dim = head_dim

    @property
    @abstractmethod
    def bytes_per_vector(self) -> int:
        """Bytes that one encoded vector takes, its scale included."""

    @property
    def bits_per_value(self) -> float:
        """`bytes_per_vector` in bits, divided by the number of values."""
        return 8 * self.bytes_per_vector / self.head_dim

    @abstractmethod
    def encode(self, x: np.ndarray) -> Encoded:
        """Encodes x, any float dtype, [..., head_dim]. Raises CodecError on any other dtype or last dim."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> np.ndarray:
        """The vectors that `encoded` stands for: float32 [..., head_dim]."""

    def _vectors(self, x: np.ndarray) -> np.ndarray:
        """x as an array, checked."""
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[-1] != self.head_dim or not np.issubdtype(x.dtype, np.floating):
            raise CodecError(
                f"{self.name} cannot encode this array",
                expected=f"floats of shape (..., {self.head_dim})",
                found=f"{x.dtype} of shape {x.shape}",
            )
        return x
