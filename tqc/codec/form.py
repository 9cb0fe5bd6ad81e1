"""What a scheme stores of one vector: bands of rows with codes of one width, and the scales they are multiplied by.

A vector in the cache's basis has head_dim rows. Sketch bands add rows of their own behind them: the signs of random
projections S·r of a part of the vector. All rows together are the coded vector, which kernels see: the score of a query
is the product of the coded vector and the query with its sketch behind it, ⟨q, x̂⟩ + ⟨S·q, ẑ⟩, so that a sketch is one
more band of 1-bit codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from tqc.codec import scheme as names
from tqc.codec.limits import HEAD_DIM_STEP, MAX_BITS, check_head_dim
from tqc.codec.lloyd_max import Codebook, codebook
from tqc.errors import CodecError

EXACT_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

BLOCK = 16
"""Coordinates of a PolarQuant block."""


@dataclass(frozen=True)
class Band:
    """Rows `start` … `start + rows − 1` of the coded vector have codes of `bits` bits, times scale number `scale`.

    bits 0: the rows are not stored and stand for zeros; their `scale` is −1. sketch: the rows are signs of S·r, r being
    the dims `source` = (first, count) of the vector less what the codes of these dims stand for.
    """

    start: int
    rows: int
    bits: int
    scale: int
    sketch: bool = False
    source: tuple[int, int] = (0, 0)

    @property
    def stop(self) -> int:
        return self.start + self.rows


@dataclass(frozen=True)
class Form:
    """What `scheme` stores of a vector of `head_dim` numbers.

    kind: `exact` keeps values of `dtype`, `bands` codes of rows, `polar` angles and radii of blocks. basis: in which
    vectors enter the cache: `none` as they are, `rotation` the shared one, `matrix` one of each KV head, a parameter.
    `scales` counts the numbers beside the codes of a vector (polar: radii), of `scale_dtype`: float16, or uint8 as in
    `short_scale`.
    """

    scheme: str
    head_dim: int
    kind: Literal["exact", "bands", "polar"]
    basis: Literal["none", "rotation", "matrix"]
    bands: tuple[Band, ...] = ()
    scales: int = 0
    scale_dtype: Literal["float16", "uint8"] = "float16"

    @property
    def exact(self) -> bool:
        return self.kind == "exact"

    @property
    def dtype(self) -> str:
        """Type of the elements that hold values or codes."""
        return EXACT_DTYPES.get(self.scheme, "uint16")

    @property
    def scalar(self) -> str:
        """The stored scalar of code bands: `unbiased`, or `plain` where a sketch holds what they leave.

        A sketch makes products unbiased by itself; codes longer than the vector would only leave more for it.
        """
        return "plain" if self.sketch_rows else "unbiased"

    @property
    def sketch_rows(self) -> int:
        """Rows of the coded vector behind the head_dim rows of the vector itself."""
        return sum(band.rows for band in self.bands if band.sketch)

    @property
    def rows(self) -> int:
        """Rows of the coded vector."""
        return self.head_dim + self.sketch_rows

    @property
    def coded_bands(self) -> tuple[Band, ...]:
        """Bands of which anything is stored, codes before sketches, in the order in which a page has them."""
        return tuple(band for band in self.bands if band.bits)

    def group_rows(self, scale: int) -> int:
        """Rows of the code bands that share scale number `scale`: the dimension in which they are normalised."""
        return sum(band.rows for band in self.bands if band.scale == scale and not band.sketch)

    def table(self, band: Band) -> Codebook:
        """Centroids and thresholds of a band's codes, before the scale. Of a sketch: ±c, so that c·‖r‖·⟨S·q, z⟩ is an
        unbiased ⟨q, r⟩ when S has orthonormal rows (chunks of `source` count) in a random direction."""
        if band.sketch:
            return _signs(band.rows, band.source[1])
        return codebook(band.bits, self.group_rows(band.scale))

    @property
    def bits(self) -> int:
        """Bits of one vector, scales included."""
        if self.exact:
            return self.head_dim * {"float32": 32}.get(self.dtype, 16)
        codes = (
            46 * self.head_dim // BLOCK if self.kind == "polar" else sum(band.rows * band.bits for band in self.bands)
        )
        return codes + self.scale_bits * self.scales

    @property
    def scale_bits(self) -> int:
        """Of one scale."""
        return 8 if self.scale_dtype == "uint8" else 16

    @property
    def bytes_per_vector(self) -> float:
        """`bits` in bytes; not whole for some head_dims of PolarQuant, whose pages are."""
        return self.bits / 8

    @property
    def bits_per_value(self) -> float:
        return self.bits / self.head_dim

    def units(self, page: int) -> int:
        """Elements of `dtype` that hold the codes or values of one KV head's page of `page` vectors."""
        if self.exact:
            return page * self.head_dim
        return page * (self.bits - self.scale_bits * self.scales) // 16

    def offset(self, band: Band, page: int) -> int:
        """The element at which a band's codes begin in a page of `page` vectors."""
        before = self.coded_bands[: self.coded_bands.index(band)]
        return sum(page * other.rows * other.bits // 16 for other in before)


@lru_cache
def form(scheme: str, head_dim: int) -> Form:
    """The form of `scheme` for vectors of `head_dim` numbers.

    Raises CodecError for an unknown scheme, a head_dim that is not a multiple of 16 from 16 to 512, and bands that do
    not add up to it.
    """
    names.check(scheme)
    check_head_dim(head_dim)
    if names.has_short_scales(scheme):
        return replace(form(names.plain(scheme), head_dim), scheme=scheme, scale_dtype="uint8")
    if scheme in EXACT_DTYPES:
        return Form(scheme, head_dim, "exact", "none")
    if scheme.startswith("polar"):
        return Form(scheme, head_dim, "polar", "none" if scheme == "polar-plain" else "rotation", (), head_dim // BLOCK)
    if names.is_bands(scheme):
        bands = tuple(_listed(scheme, head_dim))
        return Form(scheme, head_dim, "bands", "matrix", bands, 1 + max(band.scale for band in bands))
    if scheme.startswith("qjl"):
        return _qjl(scheme, head_dim)
    if scheme.startswith("tqp"):
        code = Band(0, head_dim, int(scheme[3:]) - 1, 0)
        sketch = Band(head_dim, head_dim, 1, 1, sketch=True, source=(0, head_dim))
        return Form(scheme, head_dim, "bands", "rotation", (code, sketch), 2)
    if "." in scheme:
        outliers, bits = outlier_dims(head_dim), int(scheme[2])
        bands = (Band(0, outliers, bits + 1, 0), Band(outliers, head_dim - outliers, bits, 1))
        return Form(scheme, head_dim, "bands", "matrix", bands, 2)
    return Form(scheme, head_dim, "bands", "rotation", (Band(0, head_dim, int(scheme[2:]), 0),), 1)


def outlier_dims(head_dim: int) -> int:
    """Channels that tq2.5 and tq3.5 give a bit more: a quarter, in whole groups of 16, since kernels work on 16 lanes.

    80 and 96 dims get 16, where a quarter would be 20 and 24. Raises CodecError where nothing would be left.
    """
    if head_dim < 2 * HEAD_DIM_STEP:
        raise CodecError("too few channels to split", expected=f"at least {2 * HEAD_DIM_STEP}", found=str(head_dim))
    return max(HEAD_DIM_STEP, head_dim // 4 // HEAD_DIM_STEP * HEAD_DIM_STEP)


def _listed(scheme: str, head_dim: int) -> Iterator[Band]:
    start, scale = 0, 0
    groups = [[part.split("@") for part in group.split("+")] for group in scheme.split("/")]
    for group in groups:
        stored = False
        for rows, bits in ((int(rows), int(bits)) for rows, bits in group):
            if rows % HEAD_DIM_STEP or not rows or bits > MAX_BITS:
                raise CodecError(
                    "this band cannot be coded",
                    where=scheme,
                    expected=f"a multiple of {HEAD_DIM_STEP} dims, 0 to {MAX_BITS} bits",
                    found=f"{rows}@{bits}",
                )
            yield Band(start, rows, bits, scale if bits else -1)
            start, stored = start + rows, stored or bits > 0
        scale += stored  # what is not stored has no scale
    if start != head_dim or not scale:
        raise CodecError("the bands are not those of this head_dim", where=scheme, expected=f"{head_dim} dims in all")


def _qjl(scheme: str, head_dim: int) -> Form:
    times, nothing = int(scheme[3]), Band(0, head_dim, 0, -1)
    if not scheme.endswith("o"):
        sketch = Band(head_dim, times * head_dim, 1, 0, sketch=True, source=(0, head_dim))
        return Form(scheme, head_dim, "bands", "none", (nothing, sketch), 1)
    outlier_dims(head_dim)
    first, rest = HEAD_DIM_STEP, head_dim - HEAD_DIM_STEP
    outliers = Band(head_dim, times * first, 1, 0, sketch=True, source=(0, first))
    others = Band(outliers.stop, times * rest, 1, 1, sketch=True, source=(first, rest))
    return Form(scheme, head_dim, "bands", "matrix", (nothing, outliers, others), 2)


@lru_cache
def _signs(rows: int, dim: int) -> Codebook:
    """±c with c = 1 / (rows · E|u₁|), u uniform on the unit sphere of `dim` dimensions (arXiv:2406.03482, eq. 4, whose
    √(π/2)/rows is the limit for large `dim`)."""
    mean = math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
    centroids = np.array([-1, 1], np.float64) / (rows * mean)
    book = Codebook(centroids.astype(np.float32), np.zeros(1, np.float32))
    for array in book:
        array.flags.writeable = False
    return book
