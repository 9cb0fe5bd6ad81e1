"""Schemes made of bands: TurboQuant in all its variants, sign sketches, mixed widths (see `form`).

Each scale group is a sub-vector of its own: normalised by its norm, in the codebook of its dimension, with a stored
scalar as in `turboquant`. A sketch holds the signs and the norm of what the codes, with the scales that were stored,
leave of its source (TurboQuant-prod, arXiv:2504.19874, algorithm 2; of all of it: QJL, arXiv:2406.03482).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tqc.codec import basis, bitstream, rotation, short_scale, sketch
from tqc.codec.base import Codec, Encoded
from tqc.codec.basis import split_basis
from tqc.codec.form import Band, form
from tqc.codec.lloyd_max import Codebook
from tqc.errors import CodecError

__all__ = ["SCALARS", "Banded", "BandedCodes", "split_basis"]

SCALARS = ("plain", "norm", "unbiased")


@dataclass(frozen=True, eq=False)
class BandedCodes(Encoded):
    """`codes` uint8 [..., bytes], band after band in the order of `bitstream`; `scales` [..., scales], float16 or
    uint8 where they are short."""

    codes: np.ndarray
    scales: np.ndarray


class Banded(Codec):
    """Every scheme whose form is of kind `bands`.

    A group of zeros decodes to exact zeros; so does one whose scale is below float16's range. A group that holds NaN or
    infinity, or whose scale overflows float16, gets the scale NaN and decodes to NaN, and so does the sketch of what it
    leaves. A sketch of nothing has the scale 0. Codes of such groups are those of a vector of zeros.
    """

    def __init__(
        self,
        name: str,
        head_dim: int,
        seed: int = 0,
        scalar: str | None = None,
        *,
        rounds: int = 1,
        gaussian: bool = False,
        matrix: np.ndarray | None = None,
    ) -> None:
        """`seed` chooses rotation and sketches, `scalar` the stored scalar of code groups (None: that of the form),
        `rounds` those of the rotation. `gaussian`: sketches have independent Gaussian entries, not orthogonal rows.
        `matrix` [head_dim, head_dim], of schemes with a basis of their own: x enters as matrix·x; None: `split_basis`
        where channels are split, otherwise the identity. Raises CodecError on values out of range."""
        super().__init__(name, head_dim)
        self.form = form(name, head_dim)
        if self.form.kind != "bands":
            raise CodecError("this scheme has no bands", expected="tq…, tqp…, qjl… or bands", found=name)
        scalar = scalar or self.form.scalar
        if scalar not in SCALARS:
            raise CodecError(f"unknown scalar '{scalar}'", expected=f"one of {', '.join(SCALARS)}", found=scalar)
        if rounds not in (1, 2):
            raise CodecError("this rotation is not known", expected="1 or 2 rounds", found=str(rounds))
        self.seed, self.scalar, self.rounds, self.gaussian = seed, scalar, rounds, gaussian
        self._given = None if matrix is None else basis.check_matrix(self.form, matrix)
        self._tables = {band: self._table(band) for band in self.form.coded_bands}

    @cached_property
    def _basis(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The matrix of the basis and its inverse, if it is neither the rotation nor the identity."""
        if self._given is not None:
            return self._given, np.linalg.inv(self._given)
        if basis.splits(self.form):
            matrix = split_basis(self.form, None, self.seed)
            return matrix, matrix.T
        return None

    def _table(self, band: Band) -> Codebook:
        book = self.form.table(band)
        if band.sketch and self.gaussian:
            c = np.float32(math.sqrt(math.pi / 2) / band.rows)
            return Codebook(np.array([-c, c]), book.thresholds)
        return book

    @property
    def bytes_per_vector(self) -> int:
        return int(self.form.bytes_per_vector)

    def encode(self, x: np.ndarray) -> BandedCodes:
        codes, scales = self.quantize(self.to_basis(x))
        packed = [bitstream.pack(codes[..., b.start : b.stop], b.bits) for b in self.form.coded_bands]
        stored = short_scale.encode(scales) if self.form.scale_dtype == "uint8" else scales
        return BandedCodes(np.concatenate(packed, axis=-1), stored)

    def decode(self, encoded: BandedCodes) -> np.ndarray:
        codes = np.zeros((*encoded.codes.shape[:-1], self.form.rows), np.uint8)
        start = 0
        for band in self.form.coded_bands:
            end = start + band.rows * band.bits // 8
            codes[..., band.start : band.stop] = bitstream.unpack(encoded.codes[..., start:end], band.bits, band.rows)
            start = end
        scales = short_scale.decode(encoded.scales) if self.form.scale_dtype == "uint8" else encoded.scales
        return self.from_basis(self.reconstruct(self.dequantize(codes, scales)))

    def to_basis(self, x: np.ndarray) -> np.ndarray:
        """x [..., head_dim] as it enters the cache, float32."""
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            x = self._vectors(x).astype(np.float32)
            if self.form.basis == "rotation":
                return rotation.rotate(x, self.seed, self.rounds)
            return x if self._basis is None else basis.apply(self._basis[0], x)

    def from_basis(self, z: np.ndarray) -> np.ndarray:
        """The inverse of `to_basis`, float32."""
        if self.form.basis == "rotation":
            return rotation.unrotate(z, self.seed, self.rounds)
        return z if self._basis is None else basis.apply(self._basis[1], z)

    def quantize(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(codes uint8 [..., rows] below 2**bits of their band, scales float16 [..., scales]) of z [..., head_dim], in
        the cache's basis. Rows of which nothing is stored have the code 0."""
        z = np.ascontiguousarray(self._vectors(z), np.float32)
        codes = np.zeros((*z.shape[:-1], self.form.rows), np.uint8)
        scales = np.zeros((*z.shape[:-1], self.form.scales), np.float16)
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            for scale, bands in self._groups():
                self._quantize_group(z, bands, scale, codes, scales)
            self._quantize_left(z - self.dequantize(codes, scales)[..., : self.form.head_dim], codes, scales)
        return codes, scales

    def dequantize(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The coded vectors, float32 [..., rows]: scale · centroid; of a sketch ±c·‖r‖; 0 where nothing is stored."""
        coded = np.zeros(codes.shape, np.float32)
        for band, table in self._tables.items():
            scale = scales[..., band.scale, None].astype(np.float32)
            coded[..., band.start : band.stop] = table.centroids[codes[..., band.start : band.stop]] * scale
        return coded

    def reconstruct(self, coded: np.ndarray) -> np.ndarray:
        """The vectors in the cache's basis that coded vectors [..., rows] stand for, Sᵀ folding the sketches back:
        float32 [..., head_dim]."""
        dim = self.form.head_dim
        if not self.form.sketch_rows:
            return coded
        if self.gaussian:
            return coded[..., :dim] + basis.apply(sketch.gaussian_matrix(self.form, self.seed).T, coded[..., dim:])
        return coded[..., :dim] + sketch.fold(coded[..., dim:], self.form, self.seed)

    def _groups(self) -> list[tuple[int, list[Band]]]:
        """The code bands of each scale."""
        codes = [band for band in self.form.coded_bands if not band.sketch]
        return [(scale, [b for b in codes if b.scale == scale]) for scale in sorted({b.scale for b in codes})]

    def _quantize_group(
        self, z: np.ndarray, bands: list[Band], scale: int, codes: np.ndarray, scales: np.ndarray
    ) -> None:
        """Writes the codes and the scale of the group."""
        part = np.concatenate([z[..., band.start : band.stop] for band in bands], axis=-1)
        norm = np.sqrt(np.square(part).sum(axis=-1))
        usable = np.isfinite(norm) & (norm > 0)
        y = np.where(usable[..., None], part, 0) / np.where(usable, norm, 1)[..., None]
        quantized, start = np.empty_like(y), 0
        for band in bands:
            rows, table = slice(start, start := start + band.rows), self._tables[band]
            chosen = np.searchsorted(table.thresholds, y[..., rows])
            codes[..., band.start : band.stop] = chosen
            quantized[..., rows] = table.centroids[chosen]
        scales[..., scale] = np.where(norm == 0, np.float16(0), self._stored(norm / self._length(y, quantized)))

    def _length(self, y: np.ndarray, quantized: np.ndarray) -> np.ndarray:
        """What the norm is divided by, [...]."""
        if self.scalar == "plain":
            return np.ones(y.shape[:-1], np.float32)
        if self.scalar == "norm":
            return np.sqrt(np.square(quantized).sum(axis=-1))
        return (y * quantized).sum(axis=-1)

    def _quantize_left(self, left: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> None:
        """Writes the signs and the scales of the sketches of `left` [..., head_dim], which is changed."""
        sketches = [band for band in self.form.coded_bands if band.sketch]
        for band in sketches:
            part = left[..., band.source[0] : sum(band.source)]
            norm = np.sqrt(np.square(np.ascontiguousarray(part)).sum(axis=-1))
            part[~np.isfinite(norm)] = 0
            scales[..., band.scale] = self._stored(norm)
        if sketches:
            codes[..., self.form.head_dim :] = self._project(left) > 0

    def _stored(self, scale: np.ndarray) -> np.ndarray:
        """As stored, float16; what that cannot hold is NaN."""
        if self.form.scale_dtype == "uint8":
            return short_scale.rounded(scale)
        scale = np.asarray(scale, np.float16)
        return np.where(np.isfinite(scale), scale, np.float16(np.nan))

    def _project(self, z: np.ndarray) -> np.ndarray:
        """S·z, float32 [..., sketch_rows]."""
        if self.gaussian:
            return basis.apply(sketch.gaussian_matrix(self.form, self.seed), z)
        return sketch.project(z, self.form, self.seed)
