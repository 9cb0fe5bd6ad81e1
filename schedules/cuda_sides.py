"""Keys and values as operand A, wherever they lie: codes in shared memory, exact numbers there or in global memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec import short_scale
from tqc.codec.form import Band, Form
from tqc.codec.fragments import ROWS, STRIP, STRIPS, TOKENS, VALUES, runs
from tqc.schedules.cuda_builder import i32, store, when
from tqc.schedules.cuda_codes import turns
from tqc.schedules.cuda_decoder import COARSE, Decoder, coarse_unit, lookup_table
from tqc.schedules.cuda_flash import Column, Part, Side, load_words
from tqc.schedules.cuda_int8 import Int8Products, Int8Queries
from tqc.schedules.cuda_polar import expand_column
from tqc.schedules.cuda_ptx import (
    WARP,
    hold,
    load_global,
    load_matrices,
    load_shared,
    multiply_halves,
    pack_halves,
    permute,
    registers,
    store_shared,
    sync_warp,
    u32,
)

_TURNS = b"turns"
_TO_NAN = 0x7E00 - ((short_scale.NAN + short_scale.FLOAT16_BASE) << short_scale.FLOAT16_SHIFT)
"""What makes the float16 NaN of the bits that code 255 would have."""
_LANE_BYTES = 2 * VALUES
NEAR = 6e-3
"""Relative difference up to which other numbers stand for centroids: a hundredth of what 2 bits lose, in amplitude."""


def codes_bytes(form: Form) -> int:
    """Bytes of the codes of one KV head's page."""
    return 2 * form.units(TOKENS)


def scale_bytes(form: Form) -> int:
    """Of one scale of a page."""
    return TOKENS * form.scale_bits // 8


def page_bytes(form: Form) -> int:
    """Bytes of one KV head's page in shared memory: codes, and scales behind them. 0 for exact values, which are read
    where they lie."""
    return 0 if form.exact else codes_bytes(form) + form.scales * scale_bytes(form)


def decoded_book(form: Form, band: Band) -> tuple[np.ndarray, float]:
    """What codes of a band are decoded to, and the unit that makes centroids of that: `COARSE` for 2 bits, unless few
    rows have other centroids, or their scale is also that of a band which is decoded otherwise."""
    book = form.table(band).centroids
    books = [form.table(other).centroids for other in form.coded_bands if other.scale == band.scale]
    if band.bits != 2 or not all(np.array_equal(other, book) for other in books):
        return book, 1.0
    unit = coarse_unit(book)
    return (COARSE, unit) if np.allclose(unit * COARSE, book, rtol=NEAR) else (book, 1.0)


@dataclass(frozen=True)
class Tables:
    """Look-up tables of codes, in shared memory from `address` on."""

    address: Expr
    offsets: dict[bytes, int]
    _decoders: dict[bytes, Decoder] = field(default_factory=dict)

    @staticmethod
    def entries(forms: tuple[Form, ...]) -> dict[bytes, np.ndarray]:
        """The table of every codebook that needs one, by its centroids."""
        found = {}
        for form in forms:
            for band in form.coded_bands:
                book, _ = decoded_book(form, band)
                if (table := lookup_table(band.bits, book)) is not None:
                    found[book.tobytes()] = table
            if form.kind == "polar":
                found[_TURNS] = turns().view(np.uint32)
        return found

    @classmethod
    def bytes_of(cls, forms: tuple[Form, ...]) -> int:
        return sum(table.nbytes for table in cls.entries(forms).values())

    @classmethod
    def fill(cls, address: Expr, forms: tuple[Form, ...], thread: Expr, threads: int) -> Tables:
        """Writes the tables; a barrier has to follow."""
        offsets, at = {}, 0
        for book, table in cls.entries(forms).items():
            offsets[book] = at
            for first in range(0, len(table), threads):
                part = table[first : first + threads]
                value = _pick([u32(int(entry)) for entry in part], thread)
                with T.If(thread < len(part)), T.Then():
                    store_shared(address + u32(at + 4 * first) + u32(thread) * u32(4), value)
            at += table.nbytes
        return cls(address, offsets)

    @property
    def turns(self) -> Expr:
        """The address of PolarQuant's table."""
        return self.address + u32(self.offsets[_TURNS])

    def of(self, form: Form, band: Band) -> Decoder:
        """The decoder of a band, one for all bands of the same codebook. To be called outside of loops."""
        book, _ = decoded_book(form, band)
        key, offset = book.tobytes(), self.offsets.get(book.tobytes())
        if key not in self._decoders:
            table = None if offset is None else hold(self.address + u32(offset))
            self._decoders[key] = Decoder(band.bits, book, table)
        return self._decoders[key]


def _pick(values: list[Expr], index: Expr, start: int = 0) -> Expr:
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    lower, upper = _pick(values[:middle], index, start), _pick(values[middle:], index, start + middle)
    return tirx.Select(index < start + middle, lower, upper)


COLUMN_BYTES = 2 * TOKENS * ROWS
"""A column as float16 fragments."""


class CodedPages:
    """Reads pages of codes of one side in shared memory, scales behind them (`page_bytes`).

    To be made once a kernel, outside of loops. `scratch`: `scratch_bytes` of the warp's own. `int8`: queries with which
    keys are multiplied as integers.
    """

    def __init__(
        self,
        side: str,
        form: Form,
        tables: Tables,
        lane: Expr,
        scratch: Expr | None = None,
        int8: Int8Queries | None = None,
    ) -> None:
        self.side, self.form, self.lane, self._scratch = side, form, lane, scratch
        self._products = {band: Int8Products(form, band, int8, lane) for band in form.coded_bands} if int8 else {}
        self._decoders = {band: tables.of(form, band) for band in form.coded_bands}
        # int8 products are of the centroids' own unit
        self._units = {band.scale: 1.0 if int8 else decoded_book(form, band)[1] for band in form.coded_bands}
        self._turns = hold(tables.turns) if form.kind == "polar" else None

    @staticmethod
    def scratch_bytes(form: Form) -> int:
        """Shared memory in which a warp puts fragments together."""
        return COLUMN_BYTES if form.kind == "polar" else 0

    def at(self, address: Expr, exists: Callable[[Expr], Expr] | None = None) -> Side:
        """The page at `address`. `exists` is that of `exact_side`."""
        if self.form.kind == "polar":
            columns = [self._polar(address, number, exists) for number in range(self.form.head_dim // ROWS)]
            return Side((Part(None, tuple(columns)),))
        first_scale = codes_bytes(self.form)

        def scales(number: int, row: Expr | None = None) -> Buffer:
            row = self.lane >> 2 if row is None else row
            size = scale_bytes(self.form)
            at = address + u32(first_scale + number * size) + u32(row) * u32(size // 8)
            words, unit = self._scale_words(at), self._units[number]
            for n in range(4 if unit != 1 else 0):
                multiply_halves(words[n], words[n], unit)
            return words

        if self._products:
            products = {
                band: partial(self._products[band], partial(self._words, address, band)) for band in self._products
            }
            return Side(tuple(Part(band.scale, (), made) for band, made in products.items()), scales)
        parts = []
        for scale in dict.fromkeys(band.scale for band in self.form.coded_bands):
            bands = [band for band in self.form.coded_bands if band.scale == scale]
            columns = [self._column(address, band, n) for band in bands for n in range(band.rows // ROWS)]
            parts.append(Part(scale, tuple(columns)))
        return Side(tuple(parts), scales)

    def _scale_words(self, at: Expr) -> Buffer:
        """Four words of two scales each, float16."""
        if self.form.scale_dtype == "float16":
            return load_words(at, 4, "scale_words")
        return halves_of_short(load_words(at, 2, "scale_bytes"))

    def expand(self, address: Expr, target: Expr, turn: Callable[[int], Expr], exists=None) -> None:
        """Writes the page as float16 fragments to shared memory; the warp does the columns of its `turn`."""
        for column in (column for part in self.at(address, exists).parts for column in part.columns):
            with when(turn(column.index)):
                at = target + u32(column.index * COLUMN_BYTES)
                if self.form.kind == "polar":
                    expand_column(self.side, self.form, column.index, address, self._turns, at, self.lane, exists)
                    continue
                operands = registers("expanded", 4 * STRIPS, "uint32")
                column.load(operands)
                for strip in range(STRIPS):
                    place = at + u32(strip * WARP * _LANE_BYTES) + u32(self.lane) * u32(_LANE_BYTES)
                    store_shared(place, *(operands[4 * strip + n] for n in range(4)))

    def expanded(self, address: Expr, target: Expr) -> Side:
        """What `expand` wrote, with the scales of the page at `address`."""
        coded = self.at(address)
        columns = {part.scale: [column.index for column in part.columns] for part in coded.parts}
        return fragments_in_shared(target, columns, self.lane, coded.scales)

    def _column(self, address: Expr, band: Band, number: int) -> Column:
        def load(operands: Buffer) -> None:
            self._decoders[band].decode(self._words(address, band, number), operands)

        return Column(band.start // ROWS + number, load)

    def _words(self, address: Expr, band: Band, number: int) -> Buffer:
        """The lane's words of a column of a band."""
        start = 2 * self.form.offset(band, TOKENS) + number * 4 * WARP * band.bits
        words = registers("code_words", band.bits, "uint32")
        for first, count in runs(band.bits):
            at = address + u32(start + 4 * WARP * first) + u32(self.lane) * u32(4 * count)
            load_shared([words[first + n] for n in range(count)], at)
        return words

    def _polar(self, address: Expr, number: int, exists: Callable[[Expr], Expr] | None) -> Column:
        def load(operands: Buffer) -> None:
            sync_warp()  # the column before is read
            expand_column(self.side, self.form, number, address, self._turns, self._scratch, self.lane, exists)
            sync_warp()
            for strip in range(STRIPS):
                at = self._scratch + u32(strip * WARP * _LANE_BYTES) + u32(self.lane) * u32(_LANE_BYTES)
                load_shared([operands[4 * strip + n] for n in range(4)], at)

        return Column(number, load)


def halves_of_short(codes: Buffer) -> Buffer:
    """Eight short scales in two words as float16, four words: see `tqc.codec.short_scale`."""
    words, pair = registers("scale_words", 4, "uint32"), registers("scale_pair", 1, "uint32")
    base, shift = short_scale.FLOAT16_BASE << short_scale.FLOAT16_SHIFT, short_scale.FLOAT16_SHIFT
    for n in range(4):
        permute(pair[0], codes[n // 2], u32(0), u32(0x4342 if n % 2 else 0x4140))
        # bit 15 of a half: whether a code is not 0, and whether it is 255
        there = ((pair[0] + u32(0x7FFF7FFF)) & u32(0x80008000)) >> u32(15)
        lost = ((pair[0] + u32(0x7F017F01)) & u32(0x80008000)) >> u32(15)
        store(words, (pair[0] << u32(shift)) + there * u32(base) + lost * u32(_TO_NAN), n)
    return words


def exact_side(
    array: Buffer,
    at: tuple[Expr, ...],
    head_dim: int,
    lane: Expr,
    *,
    strips: int = STRIPS,
    exists: Callable[[Expr], Expr] | None = None,
) -> Side:
    """Exact fragments in global memory: `strips` strips from array[at] on, float16 or bfloat16.

    `exists(token)`: of values, whether anything was written for a token of the tile. What was not is read as 0, since
    0 times what is there may be NaN.
    """

    def load(words: Buffer, number: int, strip: int) -> None:
        element = i32((number * strips + strip) * WARP * VALUES) + lane * VALUES
        load_global([words[n] for n in range(4)], array, *at, element)

    return _exact(load, head_dim, lane, strips, exists, str(array.dtype) == "bfloat16")


def _exact(
    load_words_of: Callable[[Buffer, int, int], None],
    head_dim: int,
    lane: Expr,
    strips: int,
    exists: Callable[[Expr], Expr] | None,
    bfloat16: bool,
) -> Side:
    """`load_words_of(words, column, strip)` reads a lane's four words."""
    kept = None if exists is None else _masks(exists, lane, strips)

    def column(number: int) -> Column:
        def load(operands: Buffer) -> None:
            for strip in range(strips):
                words = registers("exact_words", 4, "uint32")
                load_words_of(words, number, strip)
                for n in range(4):
                    if bfloat16:
                        low, high = words[n] << u32(16), words[n] & u32(0xFFFF0000)
                        pack_halves(words[n], *(tirx.reinterpret("float32", x) for x in (low, high)))
                    # registers 2 and 3 hold the tokens 8 further on
                    value = words[n] if kept is None else words[n] & kept[2 * strip + n // 2]
                    store(operands, value, 4 * strip + n)

        return Column(number, load)

    return Side((Part(None, tuple(column(n) for n in range(head_dim // ROWS))),), strips=strips)


def _masks(exists: Callable[[Expr], Expr], lane: Expr, strips: int) -> Buffer:
    """For each strip the bits of tokens 2t, 2t + 1 and of 2t + 8, 2t + 9 that exist."""
    masks, t = registers("kept", 2 * strips, "uint32"), lane & 3
    for strip in range(strips):
        for half in range(2):
            first = STRIP * strip + 8 * half + 2 * t
            low = tirx.Select(exists(first), u32(0xFFFF), u32(0))
            high = tirx.Select(exists(first + 1), u32(0xFFFF0000), u32(0))
            store(masks, low | high, 2 * strip + half)
    return masks


def fragments_in_shared(
    address: Expr, columns: dict[int | None, list[int]], lane: Expr, scales: Callable[[int], Buffer] | None = None
) -> Side:
    """float16 fragments of a whole tile in shared memory. `columns`: those of each scale."""

    def column(number: int) -> Column:
        def load(operands: Buffer) -> None:
            for strip in range(STRIPS):
                at = address + u32((number * STRIPS + strip) * WARP * _LANE_BYTES) + u32(lane) * u32(_LANE_BYTES)
                load_shared([operands[4 * strip + n] for n in range(4)], at)

        return Column(number, load)

    return Side(tuple(Part(scale, tuple(column(n) for n in numbers)) for scale, numbers in columns.items()), scales)


def exact_in_shared(
    address: Expr, head_dim: int, lane: Expr, strips: int, exists: Callable[[Expr], Expr] | None, bfloat16: bool
) -> Side:
    """Exact fragments in shared memory, otherwise as `exact_side`."""

    def load(words: Buffer, number: int, strip: int) -> None:
        at = address + u32((number * strips + strip) * WARP * _LANE_BYTES) + u32(lane) * u32(_LANE_BYTES)
        load_shared([words[n] for n in range(4)], at)

    return _exact(load, head_dim, lane, strips, exists, bfloat16)


def rows_in_shared(address: Expr, pitch: int, head_dim: int, lane: Expr, side: str) -> Side:
    """64 tokens in shared memory, a row of float16 each, `pitch` bytes apart."""
    row, matrix = lane & 7, lane >> 3
    # Matrices 1 and 2 are the next eight of the instruction's M and K: tokens and dims of keys, the reverse of values.
    token, half = (row + 8 * (matrix & 1), matrix >> 1) if side == "k" else (row + 8 * (matrix >> 1), matrix & 1)
    start = hold(address + u32(token * pitch + half * 16))

    def column(number: int) -> Column:
        def load(operands: Buffer) -> None:
            for strip in range(STRIPS):
                at = start + u32(strip * STRIP * pitch + number * 2 * ROWS)
                load_matrices([operands[4 * strip + n] for n in range(4)], at, transposed=side == "v")

        return Column(number, load)

    return Side((Part(None, tuple(column(n) for n in range(head_dim // ROWS))),))
