"""Codes in vector registers: table lookups by code, and the fields of packed units."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec.layout import planes
from tqc.schedules.cpu_simd import Simd, f32, i64, let, scratch

UNIT = 16
"""Bits of a unit."""

_IN_REGISTERS = {"avx512": 256, "avx2": 32, "portable": 1}  # entries; beyond it memory is faster


class Table:
    """A float32 table of 2**n entries, indexed by vectors of uint32. Build it where it is used: it may need memory.

    AVX-512 looks up 16 or 32 entries with one instruction, AVX2 8; larger tables are halved by selects.
    """

    def __init__(self, simd: Simd, entries: np.ndarray) -> None:
        self._simd = simd
        self._size = len(entries)
        # Half of the largest antisymmetric table (every codebook is one) leaves registers for the sums.
        self._mirrored = simd.isa == "avx512" and self._size == 256 and np.array_equal(entries, -entries[::-1])
        if self._mirrored:
            entries = entries[self._size // 2 :]
        if self._size <= _IN_REGISTERS[simd.isa]:
            whole = np.resize(entries, max(self._size, simd.lanes)).reshape(-1, simd.lanes)
            self._registers = [let(simd.constants(part)) for part in whole]
            return
        self._registers = []
        self._memory = scratch((self._size,))
        for i, entry in enumerate(entries):
            T.buffer_store(self._memory, f32(entry), [i64(i)])

    def __getitem__(self, index: Expr) -> Expr:
        """The entries at `index`; bits of the index above the table's size are ignored."""
        if self._size == 1:
            return self._registers[0] if self._registers else self._simd.splat(self._memory[i64(0)])
        if not self._registers:
            masked = let(tirx.Cast(self._simd.type("int32"), index & self._simd.splat(self._size - 1, "uint32")))
            return let(self._memory[masked])
        index = let(index)
        return self._mirror(index) if self._mirrored else self._look_up(self._registers, index)

    def _mirror(self, index: Expr) -> Expr:
        """Entry i of the lower half is the negative of entry size − 1 − i."""
        half = self._size // 2
        top = let(index & self._simd.splat(half, "uint32"))
        lower = self._simd.splat(half, "uint32") - top  # half or 0
        folded = tirx.Select(top == self._simd.splat(0, "uint32"), ~index, index)
        sign = let(lower << self._simd.splat(32 - self._size.bit_length() + 1, "uint32"))
        value = self._simd.bits(self._look_up(self._registers, let(folded)))
        return let(self._simd.bits(value ^ sign, "float32"))

    def _look_up(self, registers: list[Expr], index: Expr) -> Expr:
        simd = self._simd
        signed = simd.bits(index, "int32")
        result = simd.type("float32")
        if len(registers) == 1:
            if simd.isa == "avx512":
                name = "llvm.x86.avx512.permvar.sf.512"
            else:
                name = "llvm.x86.avx2.permps"
            return let(tirx.call_llvm_pure_intrin(result, name, registers[0], signed))
        if len(registers) == 2 and simd.isa == "avx512":
            name = "llvm.x86.avx512.vpermi2var.ps.512"
            return let(tirx.call_llvm_pure_intrin(result, name, registers[0], signed, registers[1]))
        half = len(registers) // 2
        low = self._look_up(registers[:half], index)
        high = self._look_up(registers[half:], index)
        upper = (index & simd.splat(half * simd.lanes, "uint32")) != simd.splat(0, "uint32")
        return let(tirx.Select(upper, high, low))


class CodedRows:
    """The codes of one page as rows of vectors: K has a row per dim, its lanes are tokens; V a row per token.

    `step` rows are read together: as many as a unit of the narrowest plane holds. `first` is the unit where they begin.
    """

    def __init__(self, simd: Simd, bits: int, row_length: int, rows: int, first: int = 0) -> None:
        self._simd = simd
        self._planes = planes(bits)
        self._row_length = row_length
        self._rows = rows
        self._first = first
        self.step = UNIT // self._planes[-1][0]

    def index(self, buffer: Buffer, *lead: Expr, step: Expr, lane: Expr | int) -> Iterator[Expr]:
        """The codes of the `step` rows of one step at lanes `lane`…, with bits above the code left undefined."""
        units = [
            [
                let(self._simd.units(buffer, *lead, self._offset(shift, step * (self.step * width // UNIT) + u) + lane))
                for u in range(self.step * width // UNIT)
            ]
            for width, shift in self._planes
        ]
        for row in range(self.step):
            yield self._combine(units, row)

    def store(self, buffer: Buffer, *lead: Expr, step: Expr, lane: Expr | int, codes: list[Expr]) -> None:
        """Packs the codes of `UNIT` rows (a multiple of the step) and stores the units."""
        for width, shift in self._planes:
            per_unit = UNIT // width
            for u in range(width):
                unit = None
                for i in range(per_unit):
                    field = self._shift(codes[u * per_unit + i], shift) & self._word((1 << width) - 1)
                    field = self._shift(field, -width * i)
                    unit = field if unit is None else let(unit | field)
                at = tirx.Ramp(self._offset(shift, step * width + u) + lane, i64(1), self._simd.lanes)
                T.buffer_store(buffer, tirx.Cast(self._simd.type("uint16"), unit), [*lead, at])

    def _offset(self, shift: int, unit: Expr) -> Expr:
        return self._first + self._rows * self._row_length * shift // UNIT + unit * self._row_length

    def _combine(self, units: list[list[Expr]], row: int) -> Expr:
        code = None
        for (width, shift), plane in zip(self._planes, units, strict=True):
            per_unit = UNIT // width
            field = self._shift(plane[row // per_unit], row % per_unit * width - shift)
            below = self._word((1 << shift) - 1)
            code = field if code is None else (code & below) | (field & self._word(~((1 << shift) - 1) & 0xFFFFFFFF))
        return let(code)

    def _word(self, value: int) -> Expr:
        return self._simd.splat(value, "uint32")

    def _shift(self, value: Expr, right: int) -> Expr:
        if right == 0:
            return value
        return value >> self._word(right) if right > 0 else value << self._word(-right)
