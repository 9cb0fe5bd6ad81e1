"""Codebooks in shared memory, and the search for a code in them: what append needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.form import Band, Form
from tqc.codec.polar import LEVEL_BITS, angles
from tqc.schedules.cuda_builder import f32, i32, local, phase, shared, store

_TURNS = b"turns"


@dataclass(frozen=True)
class Books:
    """The tables of the bands of one kernel, in shared memory: thresholds, or centroids."""

    tables: dict[bytes, Buffer]
    thresholds: bool = False

    @classmethod
    def declare(cls, forms: tuple[Form, ...], threads: int, *, thresholds: bool = False) -> Books:
        """Fills the tables of all bands of codes; of sketches only the centroids: their codes are signs."""
        books = cls({}, thresholds)
        for form in forms:
            for band in form.coded_bands:
                values = books._values(form, band)
                if values.tobytes() not in books.tables and not (thresholds and band.sketch):
                    books.tables[values.tobytes()] = fill_table(books._name(), values, threads)
        if any(form.kind == "polar" for form in forms) and not thresholds:
            books.tables[_TURNS] = fill_table("turns", turns(), threads)
        return books

    @property
    def turns(self) -> Buffer:
        """`turns` in shared memory, where a form is polar."""
        return self.tables[_TURNS]

    def of(self, form: Form, band: Band) -> Buffer:
        return self.tables[self._values(form, band).tobytes()]

    def _name(self) -> str:
        return f"{'thresholds' if self.thresholds else 'centroids'}_{len(self.tables)}"

    def _values(self, form: Form, band: Band) -> np.ndarray:
        book = form.table(band)
        return book.thresholds if self.thresholds else book.centroids


def table_entries(forms: tuple[Form, ...]) -> int:
    """Floats of shared memory that the centroids take."""
    tables = {form.table(band).centroids.tobytes() for form in forms for band in form.coded_bands}
    polar = len(turns()) if any(form.kind == "polar" for form in forms) else 0
    return sum(len(table) for table in tables) // np.dtype(np.float32).itemsize + polar


def turns() -> np.ndarray:
    """The cosines, then the sines of PolarQuant's angles, level after level: float32."""
    centres = [angles(level)[0] for level in range(1, len(LEVEL_BITS) + 1)]
    return np.concatenate([turn(angle) for angle in centres for turn in (np.cos, np.sin)]).astype(np.float32)


def turn_offset(level: int, side: int) -> int:
    """Where the cosines (side 0) or the sines (1) of a level begin in `turns`."""
    return 2 * sum(1 << bits for bits in LEVEL_BITS[: level - 1]) + (side << LEVEL_BITS[level - 1])


def fill_table(name: str, values: np.ndarray, threads: int) -> Buffer:
    """A shared float32 array with these constants."""
    table = shared(name, len(values))
    with phase(len(values), threads) as entry:
        store(table, pick([f32(float(value)) for value in values], entry), entry)
    return table


def pick(values: list[Expr], index: Expr, start: int = 0) -> Expr:
    """values[index − start] as a tree of selections: constants cost no memory traffic and need no argument."""
    if len(values) == 1:
        return values[0]
    middle = len(values) // 2
    lower, upper = pick(values[:middle], index, start), pick(values[middle:], index, start + middle)
    return tirx.Select(index < start + middle, lower, upper)


class Encoder:
    """Finds codes by halving, in registers: bound expressions would be inlined into each other at every step."""

    def __init__(self, thresholds: Buffer, bits: int) -> None:
        self.thresholds, self.bits = thresholds, bits
        self.x, self.found = local("encoded", 1), local("found", 1, "int32")

    def __call__(self, x: Expr) -> Expr:
        """The number of thresholds below x, as int32; NaN is above none. Valid until the next call."""
        store(self.x, x, 0)
        store(self.found, i32(0), 0)
        for bit in reversed(range(self.bits)):
            step = 1 << bit
            above = self.thresholds[self.found[0] + (step - 1)] < self.x[0]
            store(self.found, self.found[0] + tirx.Select(above, i32(step), i32(0)), 0)
        return self.found[0]
