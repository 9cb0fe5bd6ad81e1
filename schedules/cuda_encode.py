"""Encoding a page on CUDA, for every scheme made of bands: norms, scales, codes; sketches are in `cuda_sketch`.

Sums are cut into groups of 16 values, codes into the values that a lane reads. A block encodes one side after the other
in the same scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec import short_scale
from tqc.codec.form import Band, Form
from tqc.codec.fragments import ROWS, WARP
from tqc.codec.layout import LANES, CacheLayout
from tqc.schedules.cuda_builder import accumulate, divide, f32, i32, local, phase, shared, store, to
from tqc.schedules.cuda_codes import Books, Encoder
from tqc.schedules.cuda_fragments import scale_element, value_place
from tqc.schedules.cuda_pack import pack_lane, store_lane

HALF_OVERFLOW = 65520.0  # from here on float16 rounds to infinity

Value = Callable[[Expr, Expr], Expr]
"""The exact value at (token, dim) of the page, float32."""


def short_code(value: Expr) -> Expr:
    """The code of a scale (`tqc.codec.short_scale`), int32."""
    value = T.Bind(value)
    bits = tirx.reinterpret("int32", value)
    rounded = ((bits + (1 << (short_scale.FLOAT32_SHIFT - 1))) >> short_scale.FLOAT32_SHIFT) - short_scale.FLOAT32_BASE
    code = tirx.max(tirx.min(rounded, i32(short_scale.NAN)), i32(1))
    code = tirx.Select(value < f32(short_scale.LEAST), i32(0), code)
    return tirx.Select(value >= f32(0.0), code, i32(short_scale.NAN))  # false for NaN too


def short_value(code: Expr) -> Expr:
    """What a code stands for, float32."""
    bits = (code + short_scale.FLOAT32_BASE) << short_scale.FLOAT32_SHIFT
    value = tirx.Select(tirx.EQ(code, i32(0)), f32(0.0), tirx.reinterpret("float32", bits))
    return tirx.Select(tirx.EQ(code, i32(short_scale.NAN)), f32(float("nan")), value)


@dataclass(frozen=True)
class Scratch:
    """Shared memory of an encoding block: sums of groups [head_dim/16, page]; of each group of bands with a scale of
    its own, the norms and the scales as stored, [page]."""

    parts: Buffer
    norms: list[Buffer]
    scales: list[Buffer]

    @classmethod
    def declare(cls, layout: CacheLayout) -> Scratch:
        numbers, page = range(code_scales(layout)), layout.page
        return cls(
            shared("group_sums", layout.head_dim // LANES, page),
            [shared(f"norms_{i}", page) for i in numbers],
            [shared(f"stored_{i}", page) for i in numbers],
        )


def code_scales(layout: CacheLayout) -> int:
    """Scales of code bands that a side of this layout has at most."""
    return max(len(_code_groups(layout.form(side))) for side in "kv")


def scratch_floats(layout: CacheLayout) -> int:
    return layout.page * (layout.head_dim // LANES + 2 * code_scales(layout))


def _code_groups(form: Form) -> dict[int, list[Band]]:
    """The code bands of each scale."""
    codes = [band for band in form.coded_bands if not band.sketch]
    return {scale: [band for band in codes if band.scale == scale] for scale in sorted({b.scale for b in codes})}


@dataclass(frozen=True)
class BandWriter:
    """Writes the code bands of one side of the page `at` (place and KV head)."""

    side: str
    form: Form
    page: int
    threads: int
    units: Buffer
    scales: Buffer
    at: tuple[Expr, ...]
    value: Value
    thresholds: Books
    centroids: Books
    scratch: Scratch

    def write(self) -> None:
        for scale, bands in _code_groups(self.form).items():
            self._norms(scale, bands)
            self._scales(scale, bands)
            for band in bands:
                self._codes(band)

    def encoder(self, band: Band) -> Encoder:
        """Takes what `unit` gives; to be asked for inside a phase."""
        return Encoder(self.thresholds.of(self.form, band), band.bits)

    def unit(self, x: Expr, band: Band, token: Expr) -> Expr:
        """x over the norm of the band's group."""
        norm = self.scratch.norms[band.scale][token]
        return tirx.Select(norm > f32(0.0), x / norm, f32(0.0))

    def store_scale(self, number: int, value: Expr, norm: Expr, token: Expr) -> Expr:
        """Stores 0 for the norm 0, NaN where the value is none that is kept; returns what was stored, in float32."""
        value = tirx.Select(tirx.EQ(norm, f32(0.0)), f32(0.0), value)
        place = (*self.at, number * self.page + scale_element(token))
        if self.form.scale_dtype == "uint8":
            code = T.Bind(short_code(value))
            store(self.scales, to("uint8", code), *place)
            return short_value(code)
        stored = T.Bind(to("float16", tirx.Select(value < f32(HALF_OVERFLOW), value, f32(float("nan")))))
        store(self.scales, stored, *place)
        return f32(stored)

    def _phase(self, count: int):
        return phase(count, self.threads)

    def _sum(self, bands: list[Band], token: Expr) -> Expr:
        groups = [group for band in bands for group in range(band.start // LANES, band.stop // LANES)]
        return sum((self.scratch.parts[group, token] for group in groups[1:]), self.scratch.parts[groups[0], token])

    def _norms(self, scale: int, bands: list[Band]) -> None:
        for band in bands:
            with self._phase(band.rows // LANES * self.page) as item:
                group, token = divide(item, self.page)
                total = local("square_sum", 1)
                store(total, f32(0.0), 0)
                with T.unroll(0, LANES) as j:
                    x = T.Bind(self.value(token, band.start + group * LANES + j))
                    accumulate(total, x * x, 0)
                store(self.scratch.parts, total[0], band.start // LANES + group, token)
        with self._phase(self.page) as token:
            store(self.scratch.norms[scale], tirx.sqrt(self._sum(bands, token)), token)

    def _scales(self, scale: int, bands: list[Band]) -> None:
        """scale = ‖z‖ / ⟨z/‖z‖, ẑ⟩ over the bands, or ‖z‖: 0 for a zero vector, NaN where it is no finite float16."""
        norms = self.scratch.norms[scale]
        if self.form.scalar == "plain":
            with self._phase(self.page) as token:
                norm = T.Bind(norms[token])
                store(self.scratch.scales[scale], self.store_scale(scale, norm, norm, token), token)
            return
        for band in bands:
            with self._phase(band.rows // LANES * self.page) as item:
                group, token = divide(item, self.page)
                total = local("product_sum", 1)
                store(total, f32(0.0), 0)
                encode, centroids = self.encoder(band), self.centroids.of(self.form, band)
                with T.unroll(0, LANES) as j:
                    x = self.value(token, band.start + group * LANES + j)
                    code = encode(self.unit(x, band, token))
                    accumulate(total, encode.x[0] * centroids[code], 0)
                store(self.scratch.parts, total[0], band.start // LANES + group, token)
        with self._phase(self.page) as token:
            norm = T.Bind(norms[token])
            stored = self.store_scale(scale, norm / self._sum(bands, token), norm, token)
            store(self.scratch.scales[scale], stored, token)

    def _codes(self, band: Band) -> None:
        start = self.form.offset(band, self.page) // 2
        with self._phase(band.rows // ROWS * WARP) as item:
            column, lane = divide(item, WARP)
            encode = self.encoder(band)

            def code(strip: int, j: int) -> Expr:
                token, row = value_place(self.side, lane, strip, j)
                x = self.value(token, column * ROWS + (row + band.start))
                return encode(self.unit(x, band, token))

            def put(element: Expr | int, word: Expr) -> None:
                store(self.units, word, *self.at, start + element)

            store_lane(pack_lane(code, band.bits), band.bits, put, column, lane)
