"""Scores of coded keys on integer tensor cores: another reader of codes of up to 4 bits, `DecodeConfig.keys` = int8.

A codebook is symmetric, so it is near a grid of half-integers: centroid ≈ (v + ½)·unit, v a whole number of −128 … 127
(`grid`). A row of a query is rounded to unit_q·w, w of −127 … 127, over the rows of each band. The score is then

    unit·unit_q·(Σ v·w + ½·Σ w)

and v comes out of a code by fewer instructions than a float16: its one byte is looked up at once, with its sign for 2
and 3 bits; for 4 bits a negative v is the complement of a magnitude. For 8 values that is 8, 7, 8 and 11 integer
instructions for 1, 2, 3 and 4 bits, and half as many products (mma.m16n8k32).

The sum over dims may take them in any order that keys and queries share: a lane's eight values of a strip in a column
(`tqc.codec.fragments`) become the four bytes of row g and the four of row g + 8, for two columns at a time.

Sums begin at the bits of 1.5·2²³ + ½·Σ w. As a float32 such a number is itself, so that one fused multiplication and
addition makes a score of it. 256 rows of 127·127.5 are less than 2²², which is as far as that goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.form import Band, Form
from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIPS
from tqc.schedules.cuda_builder import f32, i32, store, when
from tqc.schedules.cuda_decoder import shift_left
from tqc.schedules.cuda_flash import ROWS, load_words
from tqc.schedules.cuda_ptx import (
    from_lane,
    half_of,
    hold,
    mma_int8,
    permute,
    registers,
    store_shared,
    u32,
)
from tqc.schedules.cuda_queries import OPERAND_BYTES

MOST_BITS, MOST_ROWS = 4, 256
LIMIT = 127
_MAGIC = 12582912.0
"""1.5·2²³: a float32 near it has a unit in the last place of 1."""
_ROW_BYTES = 8
"""Of a row of queries: where its sums begin, and what one of them is worth."""
_TABLE_BYTES = 16
"""The eight bytes that a decoder looks up, and padding."""


def fits_int8(form: Form) -> bool:
    """Whether all keys of this form can be read so."""
    bands = form.coded_bands
    coded = not form.exact and form.kind != "polar" and bool(bands)
    return coded and all(band.bits <= MOST_BITS and band.rows <= MOST_ROWS for band in bands)


def grid(centroids: np.ndarray) -> tuple[float, np.ndarray]:
    """(unit, v of the positive centroids) with the smallest squared error; centroids float32 [2**bits], symmetric."""
    positive = np.asarray(centroids[len(centroids) // 2 :], np.float64)

    def rounded(top: int) -> tuple[float, np.ndarray]:
        unit = positive[-1] / (top + 0.5)
        return unit, np.clip(np.rint(positive / unit - 0.5), 0, LIMIT).astype(np.int64)

    return min(
        (rounded(top) for top in range(64, LIMIT + 1)), key=lambda u: ((u[0] * (u[1] + 0.5) - positive) ** 2).sum()
    )


def int8_table(centroids: np.ndarray) -> np.ndarray:
    """The bytes that a decoder looks up, uint32 [2]: v of all centroids of 2 and 3 bits, of the positive ones of 4; of
    the one positive centroid of 1 bit in all places."""
    _, v = grid(centroids)
    bits = len(centroids).bit_length() - 1
    table = np.repeat(v, 8) if bits == 1 else v if bits == MOST_BITS else np.concatenate([~v[::-1], v])
    return np.pad(table.astype(np.int8), (0, 8 - len(table))).view("<u4")


def int8_query_bytes(form: Form, eights: int) -> int:
    """Shared memory of `eights` times eight rows for all bands."""
    return sum(_band_bytes(band, eights) for band in form.coded_bands)


def _band_bytes(band: Band, eights: int) -> int:
    return _TABLE_BYTES + eights * (_pairs(band) * OPERAND_BYTES + ROWS * _ROW_BYTES)


def _pairs(band: Band) -> int:
    """Pairs of columns, the last of which may be half."""
    return -(-band.rows // (2 * COLUMN))


@dataclass(frozen=True)
class Int8Queries:
    """Rounded query rows at `address`: of each band its table, `[pair of columns, eight, lane, column]` words of four
    int8, and `[eight, row]` pairs of a row's first sum and factor."""

    address: Expr
    form: Form
    eights: int

    def _band(self, band: Band) -> tuple[int, int, int]:
        """Offsets of the table, the words and the rows of a band."""
        bands = self.form.coded_bands
        start = sum(_band_bytes(before, self.eights) for before in bands[: bands.index(band)])
        words = start + _TABLE_BYTES
        return start, words, words + self.eights * _pairs(band) * OPERAND_BYTES

    def table(self, band: Band) -> Expr:
        """The address of `int8_table`."""
        return self.address + u32(self._band(band)[0])

    def write(self, queries: Expr, lane: Expr, warp: Expr, warps: int) -> None:
        """Rounds the rows that lie at `queries` as float16 (`cuda_queries`); a barrier before and behind it."""
        for number, band in enumerate(self.form.coded_bands):
            with T.serial(0, -(-self.eights // warps)) as i:
                eight = hold(i * warps + tirx.floormod(warp + number, i32(warps)))
                with when(eight < self.eights):
                    self._write(band, queries, lane, eight)

    def _write(self, band: Band, queries: Expr, lane: Expr, eight: Expr) -> None:
        columns, first = band.rows // COLUMN, band.start // COLUMN
        table_at, words_at, rows_at = self._band(band)
        with when(tirx.all(tirx.EQ(lane, i32(0)), tirx.EQ(eight, i32(0)))):
            table = int8_table(self.form.table(band).centroids)
            store_shared(self.address + u32(table_at), *(u32(int(word)) for word in table))
        source = hold(queries + u32(eight) * u32(OPERAND_BYTES) + u32(lane) * u32(8))
        high, lost, total = (registers(name, 1) for name in ("highest_query", "lost_query", "query_sum"))
        other, scale = registers("other_query", 1), registers("query_scale", 1)
        for x in (high, lost, total):
            store(x, f32(0.0), 0)

        def numbers(column: Expr) -> list[Expr]:
            words = load_words(source + u32((first + column) * (self.eights * OPERAND_BYTES)), 2, "query_words")
            return [half_of(words[n], upper) for n in range(2) for upper in (False, True)]

        with T.serial(0, columns) as column:
            for x in numbers(column):
                store(high, tirx.max(high[0], tirx.max(x, f32(0.0) - x)), 0)
                store(lost, lost[0] + x * f32(0.0), 0)  # NaN for what is not finite, which max may not see
        _over_row(high, other, tirx.max)
        store(scale, tirx.Select(high[0] > f32(0.0), f32(float(LIMIT)) / high[0], f32(0.0)), 0)
        places, packed = registers("rounded_query", 4, "uint32"), registers("packed_query", 2, "uint32")
        with T.serial(0, columns) as column:
            for n, x in enumerate(numbers(column)):
                store(other, x * scale[0] + f32(_MAGIC), 0)
                store(total, total[0] + (other[0] - f32(_MAGIC)), 0)
                store(places, tirx.reinterpret("uint32", other[0]), n)
            for n in range(2):
                permute(packed[n], places[2 * n], places[2 * n + 1], u32(0x0040))
            permute(packed[0], packed[0], packed[1], u32(0x5410))
            pair = hold((column >> 1) * self.eights + eight)
            at = u32(words_at) + u32(pair) * u32(OPERAND_BYTES) + u32(lane) * u32(8) + u32(column & 1) * u32(4)
            store_shared(self.address + at, packed[0])
        for x in (total, lost):
            _over_row(x, other, lambda a, b: a + b)
        unit, _ = grid(self.form.table(band).centroids)
        with when(tirx.EQ(lane & 3, i32(0))):
            store(other, total[0] * f32(0.5) + f32(_MAGIC), 0)
            store(scale, high[0] * f32(unit / LIMIT) + lost[0], 0)
            row = hold(eight * ROWS + (lane >> 2))
            at = self.address + u32(rows_at) + u32(row) * u32(_ROW_BYTES)
            store_shared(at, *(tirx.reinterpret("uint32", x[0]) for x in (other, scale)))

    def operand(self, band: Band, pair: int, columns: int, m: int, lane: Expr) -> Buffer:
        """The register of operand B of each of the one or two columns of a pair, of the rows number m."""
        at = self._band(band)[1] + (pair * self.eights + m) * OPERAND_BYTES
        return load_words(self.address + u32(at) + u32(lane) * u32(8), columns, "query_int8")

    def rows(self, band: Band, m: int, t: Expr) -> Buffer:
        """First sum and factor of row 2t of the rows number m, and of row 2t + 1."""
        at = self._band(band)[2] + m * ROWS * _ROW_BYTES
        return load_words(self.address + u32(at) + u32(t) * u32(2 * _ROW_BYTES), 4, "query_rows")


def _over_row(x: Buffer, other: Buffer, add) -> None:
    """Of the four lanes of a row of queries, to all of them."""
    for mask in (1, 2):
        from_lane(other[0], x[0], mask)
        store(x, add(x[0], other[0]), 0)


class Int8Products:
    """Products of a band's columns and all rows. To be made once a kernel, outside of loops."""

    def __init__(self, form: Form, band: Band, queries: Int8Queries, lane: Expr) -> None:
        self.band, self.queries, self.lane, self.t = band, queries, lane, hold(lane & 3)
        self._table = load_words(queries.table(band), 2, "int8_table")
        self._operands = registers("operand_int8", 4 * STRIPS, "uint32")
        self._sums = registers("int8_sums", 4 * STRIPS * queries.eights, "uint32")
        self._low, self._high = registers("int8_low", 1, "uint32"), registers("int8_high", 1, "uint32")

    def __call__(self, load, sums: Buffer) -> None:
        """`load(column)`: a lane's words of a column of the band. `sums`: the scores as `WarpAttention` has them."""
        tiles, columns = self.queries.eights, self.band.rows // COLUMN
        rows = [self.queries.rows(self.band, m, self.t) for m in range(tiles)]
        places = [(m, strip, n) for m in range(tiles) for strip in range(STRIPS) for n in range(4)]
        for m, strip, n in places:
            store(self._sums, rows[m][2 * (n % 2)], (m * STRIPS + strip) * 4 + n)
        for pair in range(_pairs(self.band)):
            here = range(2 * pair, min(2 * pair + 2, columns))
            for n, column in enumerate(here):
                words = load(column)
                for strip in range(STRIPS):
                    self._decode(words, strip, 4 * strip + 2 * n)
            size = 2 * len(here)
            for m in range(tiles):
                b = self.queries.operand(self.band, pair, len(here), m, self.lane)
                for strip in range(STRIPS):
                    first = (m * STRIPS + strip) * 4
                    a = [self._operands[4 * strip + n] for n in range(size)]
                    mma_int8([self._sums[first + n] for n in range(4)], a, [b[n] for n in range(len(here))])
        for m in range(tiles):
            factors = [tirx.reinterpret("float32", rows[m][2 * n + 1]) for n in range(2)]
            shifts = [hold(factor * f32(-_MAGIC)) for factor in factors]
            for strip in range(STRIPS):
                for n in range(4):
                    at = (m * STRIPS + strip) * 4 + n
                    store(sums, tirx.reinterpret("float32", self._sums[at]) * factors[n % 2] + shifts[n % 2], at)

    def _decode(self, words: Buffer, strip: int, at: int) -> None:
        """Eight values to the operands `at` (rows g) and `at` + 1 (rows g + 8)."""
        if self.band.bits == 1:
            self._signs(words, strip, at)
            return
        for half, values in enumerate((self._low, self._high)):
            if self.band.bits == 4:
                permute(values[0], *self._bytes, shift_left(words[strip] & u32(0x77777777), -16 * half))
                permute(self._operands[at], shift_left(words[strip], 4 * half), u32(0), u32(0xBA98))
                store(values, values[0] ^ self._operands[at], 0)
            else:
                two = shift_left(words[strip // 2], -2 * (strip % 2)) & u32(0x33333333)
                if self.band.bits == 3:
                    two = two | (shift_left(words[2], 2 - strip) & u32(0x44444444))
                permute(values[0], *self._bytes, shift_left(two, -16 * half))
        for n, selector in enumerate((0x5410, 0x7632)):
            permute(self._operands[at + n], self._low[0], self._high[0], u32(selector))

    @property
    def _bytes(self) -> list[Expr]:
        return [self._table[n] for n in range(2)]

    def _signs(self, words: Buffer, strip: int, at: int) -> None:
        """Of 1 bit: a pair's signs, shifted to bits 15 and 31, as whole bytes."""
        for n in range(2):
            first, second = (shift_left(words[0], strip * 4 + pair) for pair in (n, n + 2))
            permute(self._operands[at + n], first, second, u32(0xFDB9))
            store(self._operands, self._operands[at + n] ^ self._table[0], at + n)
