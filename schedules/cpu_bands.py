"""The bands of a coded page as CPU kernels read them: decoded rows, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.form import Band, Form
from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_codes import CodedRows, Table
from tqc.schedules.cpu_simd import Simd, let

Rows = Callable[[Expr], Iterator[tuple[Expr, list[Expr]]]]
"""What one step of a product reads: (row number, its vectors) pairs."""


LARGEST_SCALE = 65504.0
"""The largest finite float16."""


def stored_scale(simd: Simd, scale: Expr) -> Expr:
    """`scale`, NaN where a float16 cannot hold it."""
    scale = let(scale)
    fits = tirx.And(scale <= simd.splat(LARGEST_SCALE), scale >= simd.splat(0.0))
    return let(tirx.Select(fits, scale, simd.splat(float("nan"))))


def band_rows(simd: Simd, layout: CacheLayout, side: str, band: Band) -> CodedRows:
    """The codes of a band in a page of `side`: rows are dims of K or tokens of V, lanes the other ones."""
    row_length, rows = (layout.page, band.rows) if side == "k" else (band.rows, layout.page)
    return CodedRows(simd, band.bits, row_length, rows, layout.form(side).offset(band, layout.page))


class CodedBand:
    """The values of one band of any page, before the scale. Build it outside of loops: it has a table."""

    def __init__(self, simd: Simd, layout: CacheLayout, side: str, band: Band, buffer: Buffer) -> None:
        self.band = band
        self._codes = band_rows(simd, layout, side, band)
        self._buffer = buffer
        self._table = Table(simd, layout.form(side).table(band).centroids)
        self.steps = (band.rows if side == "k" else layout.page) // self._codes.step

    def values(self, at: Sequence[Expr], lanes: Sequence[Expr]) -> Rows:
        """Rows of the page `at`, numbered within the band, at the vectors that begin with `lanes`."""

        def rows_of(step: Expr) -> Iterator[tuple[Expr, list[Expr]]]:
            columns = [self._codes.index(self._buffer, *at, step=step, lane=lane) for lane in lanes]
            for row, indices in enumerate(zip(*columns, strict=True)):
                yield let(step * self._codes.step + row), [self._table[index] for index in indices]

        return rows_of


def unstored(form: Form) -> list[tuple[int, int]]:
    """(first, end) of the rows of the coded vector that a page does not hold: they stand for zeros."""
    return [(band.start, band.stop) for band in form.bands if not band.bits]


def partly_poisoned(form: Form) -> bool:
    """Whether a scale that is not finite would leave some rows of its token finite."""
    return form.kind == "polar" or form.scales > 1 or bool(unstored(form))


def finite_scales(simd: Simd, form: Form, page: int, scales: Buffer, at: Sequence[Expr], lane: Expr | int) -> Expr:
    """Which of the tokens at `lane`… of a page have only finite scales."""
    parts = [simd.finite(let(simd.load(scales, *at, lane + number * page))) for number in range(form.scales)]
    return reduce(tirx.And, parts)
