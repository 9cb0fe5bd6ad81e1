"""TurboQuant (arXiv:2504.19874, algorithm 1): rotate, normalise, quantize each coordinate, keep one scalar per vector.

With y = R·x/‖x‖ and ŷ its quantized coordinates, the scalar is one of
    plain     ‖x‖           the paper's; reconstructions are short by the quantization error
    norm      ‖x‖ / ‖ŷ‖     reconstructions have the norm of x
    unbiased  ‖x‖ / ⟨y, ŷ⟩  inner products with any fixed vector are right on average (as in EDEN and RaBitQ)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec import bitstream
from tqc.codec.base import Codec, Encoded
from tqc.codec.lloyd_max import codebook
from tqc.codec.rotation import rotate, unrotate
from tqc.errors import CodecError

SCALARS = ("plain", "norm", "unbiased")


@dataclass(frozen=True, eq=False)
class Codes(Encoded):
    """`codes` uint8 [..., head_dim·bits/8], in the order of `bitstream`; `scale` float16 [...]."""

    codes: np.ndarray
    scale: np.ndarray


class TurboQuant(Codec):
    """`tq1` … `tq8`.

    The zero vector decodes to exact zeros; so does one whose scale is below float16's range. A vector that holds NaN or
    infinity, or whose scale overflows float16, gets the scale NaN and decodes to NaN: a value that cannot be kept
    is never replaced by a plausible one.
    """

    def __init__(self, bits: int, head_dim: int, seed: int = 0, scalar: str = "unbiased") -> None:
        """`seed` chooses the rotation, `scalar` the stored scalar. Raises CodecError on values out of range."""
        super().__init__(f"tq{bits}", head_dim)
        if scalar not in SCALARS:
            raise CodecError(f"unknown scalar '{scalar}'", expected=f"one of {', '.join(SCALARS)}", found=scalar)
        self.bits = bits
        self.seed = seed
        self.scalar = scalar
        self.codebook = codebook(bits, head_dim)

    @property
    def bytes_per_vector(self) -> int:
        return self.head_dim * self.bits // 8 + np.dtype(np.float16).itemsize

    def encode(self, x: np.ndarray) -> Codes:
        with np.errstate(invalid="ignore", over="ignore"):
            z = rotate(self._vectors(x), self.seed)
        codes, scale = self.quantize_rotated(z)
        return Codes(bitstream.pack(codes, self.bits), scale)

    def decode(self, encoded: Codes) -> np.ndarray:
        codes = bitstream.unpack(encoded.codes, self.bits, self.head_dim)
        return unrotate(self.dequantize_rotated(codes, encoded.scale), self.seed)

    def quantize_rotated(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes uint8 [..., head_dim] of values below 2**bits, scale float16 [...]) of z [..., head_dim], rotated."""
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            z = np.ascontiguousarray(self._vectors(z), np.float32)
            norm = np.sqrt(np.square(z).sum(axis=-1))
            usable = np.isfinite(norm) & (norm > 0)
            y = np.where(usable[..., None], z, 0) / np.where(usable, norm, 1)[..., None]
            codes = np.searchsorted(self.codebook.thresholds, y).astype(np.uint8)
            scale = np.asarray(norm / self._length(y, self.codebook.centroids[codes]), np.float16)
        scale = np.where(np.isfinite(scale), scale, np.float16(np.nan))
        return codes, np.where(norm == 0, np.float16(0), scale)

    def dequantize_rotated(self, codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """scale · codebook[codes]: float32 [..., head_dim], still rotated."""
        return self.codebook.centroids[codes] * scale[..., None].astype(np.float32)

    def _length(self, y: np.ndarray, quantized: np.ndarray) -> np.ndarray:
        """What the norm is divided by, [...]."""
        if self.scalar == "plain":
            return np.ones(y.shape[:-1], np.float32)
        if self.scalar == "norm":
            return np.sqrt(np.square(quantized).sum(axis=-1))
        return (y * quantized).sum(axis=-1)
