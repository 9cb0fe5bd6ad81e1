"""TurboQuant (arXiv:2504.19874, algorithm 1): rotate, normalise, quantize each coordinate, keep one scalar per vector.

With y = R·x/‖x‖ and ŷ its quantized coordinates, the scalar is one of
    plain     ‖x‖           the paper's; reconstructions are short by the quantization error
    norm      ‖x‖ / ‖ŷ‖     reconstructions have the norm of x
    unbiased  ‖x‖ / ⟨y, ŷ⟩  inner products with any fixed vector are right on average (as in EDEN and RaBitQ)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec.banded import SCALARS, Banded, BandedCodes
from tqc.codec.base import Codec, Encoded
from tqc.codec.limits import check_bits, check_head_dim
from tqc.codec.lloyd_max import codebook

__all__ = ["SCALARS", "Codes", "TurboQuant"]


@dataclass(frozen=True, eq=False)
class Codes(Encoded):
    """`codes` uint8 [..., head_dim·bits/8], in the order of `bitstream`; `scale` float16 [...]."""

    codes: np.ndarray
    scale: np.ndarray


class TurboQuant(Codec):
    """`tq1` … `tq8`: one band and one scale.

    The zero vector decodes to exact zeros; so does one whose scale is below float16's range. A vector that holds NaN or
    infinity, or whose scale overflows float16, gets the scale NaN and decodes to NaN: a value that cannot be kept
    is never replaced by a plausible one.
    """

    def __init__(self, bits: int, head_dim: int, seed: int = 0, scalar: str = "unbiased", *, rounds: int = 1) -> None:
        """`seed` and `rounds` choose the rotation, `scalar` the stored scalar. Raises CodecError on values out of
        range."""
        super().__init__(f"tq{bits}", head_dim)
        check_bits(bits)
        check_head_dim(head_dim)
        self.bits = bits
        self.seed = seed
        self.scalar = scalar
        self.codebook = codebook(bits, head_dim)
        self._banded = Banded(self.name, head_dim, seed, scalar, rounds=rounds)

    @property
    def bytes_per_vector(self) -> int:
        return self._banded.bytes_per_vector

    def encode(self, x: np.ndarray) -> Codes:
        encoded = self._banded.encode(x)
        return Codes(encoded.codes, encoded.scales[..., 0])

    def decode(self, encoded: Codes) -> np.ndarray:
        return self._banded.decode(BandedCodes(encoded.codes, np.asarray(encoded.scale)[..., None]))

    def quantize_rotated(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes uint8 [..., head_dim] of values below 2**bits, scale float16 [...]) of z [..., head_dim], rotated."""
        codes, scales = self._banded.quantize(z)
        return codes, scales[..., 0]

    def dequantize_rotated(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """scale · codebook[codes]: float32 [..., head_dim], still rotated."""
        return self._banded.dequantize(codes, np.asarray(scale)[..., None])
