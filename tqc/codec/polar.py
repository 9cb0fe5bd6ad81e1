"""PolarQuant 4-2-2-2 (arXiv:2502.02617): blocks of 16 coordinates as one radius and 15 angles.

Level 1 pairs neighbouring coordinates into a radius and an angle of the full circle; levels 2, 3 and 4 pair the radii
of the level before: angles of a quarter circle. After a random rotation all angles are independent: those of
level 1 uniform, those of level ℓ with density ∝ sin(2ψ)^(2^(ℓ−1) − 1). Level 1 has 16 equal cells, the others the best
four, and each code stands for the centre of its cell. The radius of a block is kept as it is, so that reconstructions
have the norm of the block and inner products are a little short.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tqc.codec import bitstream, rotation
from tqc.codec.base import Codec, Encoded
from tqc.codec.form import BLOCK, form
from tqc.codec.lloyd_max import Law, fixed_point
from tqc.errors import CodecError

LEVEL_BITS = (4, 2, 2, 2)
"""Bits of the angles of levels 1 to 4."""


@dataclass(frozen=True, eq=False)
class PolarCodes(Encoded):
    """`codes` uint8 [..., ⌈46·head_dim/128⌉]: the angles of level 1, then all others, in the order of `bitstream`;
    `radii` float16 [..., head_dim/16]."""

    codes: np.ndarray
    radii: np.ndarray


def angle_law(level: int) -> Law:
    """The law of an angle of level 2 to 4, less π/4."""
    power = 2 ** (level - 1) - 1
    spread = 0.5 / np.sqrt(power + 1)
    return Law(
        weight=lambda s: np.cos(2 * s) ** power,
        position=lambda s: s,
        parameter=lambda s: s,
        slope=np.ones_like,
        end=np.pi / 4,
        start=lambda g: g * spread / np.sqrt(1 + np.square(g * spread * 4 / np.pi)),
    )


@lru_cache
def angles(level: int) -> tuple[np.ndarray, np.ndarray]:
    """(angles that the codes of a level stand for, ascending; thresholds between them): float32, read-only, radians."""
    bits = LEVEL_BITS[level - 1]
    if level == 1:
        centres = (np.arange(2**bits) + 0.5) * (2 * np.pi / 2**bits)
    else:
        half = fixed_point(angle_law(level), bits)
        centres = np.pi / 4 + np.concatenate([-half[::-1], half])
    thresholds = (centres[:-1] + centres[1:]) / 2
    made = centres.astype(np.float32), thresholds.astype(np.float32)
    for array in made:
        array.flags.writeable = False
    return made


def level_rows(head_dim: int, level: int) -> slice:
    """Where the angles of a level stand among the 15·head_dim/16 of a vector."""
    return slice(head_dim - (head_dim >> (level - 1)), head_dim - (head_dim >> level))


class Polar(Codec):
    """`polar`, and `polar-plain` without the rotation.

    A block of zeros decodes to exact zeros; one that holds NaN or infinity, or whose radius overflows float16, to NaN.
    Encoded vectors are whole bytes: at head_dims that are no multiple of 64 up to 7 bits more than the form says.
    """

    def __init__(self, name: str, head_dim: int, seed: int = 0, *, rounds: int = 1) -> None:
        """`seed` and `rounds` choose the rotation. Raises CodecError on another scheme or values out of range."""
        super().__init__(name, head_dim)
        self.form = form(name, head_dim)
        if self.form.kind != "polar" or rounds not in (1, 2):
            raise CodecError("this is not PolarQuant", expected="polar or polar-plain, 1 or 2 rounds", found=name)
        self.seed, self.rounds = seed, rounds

    @property
    def bytes_per_vector(self) -> int:
        return -int(-self.form.bytes_per_vector // 1)

    def encode(self, x: np.ndarray) -> PolarCodes:
        codes, radii = self.quantize(self.to_basis(x))
        return PolarCodes(np.concatenate([bitstream.pack(codes[..., r], b) for r, b in self.streams], axis=-1), radii)

    def decode(self, encoded: PolarCodes) -> np.ndarray:
        (first, wide), (rest, narrow) = self.streams
        split = self.head_dim // 4
        parts = [
            bitstream.unpack(encoded.codes[..., :split], wide, first.stop),
            bitstream.unpack(encoded.codes[..., split:], narrow, rest.stop - rest.start),
        ]
        return self.from_basis(self.dequantize(np.concatenate(parts, axis=-1), encoded.radii))

    @property
    def streams(self) -> tuple[tuple[slice, int], tuple[slice, int]]:
        """(places of angles, bits of each) in the order in which they are packed: level 1, then all others."""
        first = level_rows(self.head_dim, 1)
        return (first, LEVEL_BITS[0]), (slice(first.stop, self.head_dim // BLOCK * 15), LEVEL_BITS[1])

    def to_basis(self, x: np.ndarray) -> np.ndarray:
        """x [..., head_dim] as it enters the cache, float32."""
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            x = self._vectors(x).astype(np.float32)
            return rotation.rotate(x, self.seed, self.rounds) if self.form.basis == "rotation" else x

    def from_basis(self, z: np.ndarray) -> np.ndarray:
        """The inverse of `to_basis`, float32."""
        return rotation.unrotate(z, self.seed, self.rounds) if self.form.basis == "rotation" else z

    def quantize(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes of the angles uint8 [..., 15·head_dim/16], level after level, radii float16 [..., head_dim/16]) of
        z [..., head_dim] in the cache's basis."""
        z = np.ascontiguousarray(self._vectors(z), np.float32)
        codes = np.empty((*z.shape[:-1], self.head_dim // BLOCK * 15), np.uint8)
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            radii = z
            for level in range(1, len(LEVEL_BITS) + 1):
                a, b = radii[..., 0::2], radii[..., 1::2]
                angle = np.arctan2(b, a)
                if level == 1:
                    angle = np.where(angle < 0, angle + np.float32(2 * np.pi), angle)
                codes[..., level_rows(self.head_dim, level)] = np.searchsorted(angles(level)[1], angle)
                radii = np.sqrt(a * a + b * b)
            lost = ~np.isfinite(radii)
            for level in range(1, len(LEVEL_BITS) + 1):
                rows = level_rows(self.head_dim, level)
                codes[..., rows][np.repeat(lost, BLOCK >> level, axis=-1)] = 0
            radii = radii.astype(np.float16)
        return codes, np.where(np.isfinite(radii), radii, np.float16(np.nan))

    def dequantize(self, codes: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """The vectors in the cache's basis, float32 [..., head_dim]."""
        out = radii.astype(np.float32)
        for level in range(len(LEVEL_BITS), 0, -1):
            angle = angles(level)[0][codes[..., level_rows(self.head_dim, level)]]
            pairs = np.stack([out * np.cos(angle), out * np.sin(angle)], axis=-1)
            out = pairs.reshape(*out.shape[:-1], 2 * out.shape[-1])
        return out
