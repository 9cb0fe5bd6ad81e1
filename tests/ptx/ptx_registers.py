"""The registers of all lanes: one array each."""

from __future__ import annotations

import numpy as np
from ptx_lanes import Lanes
from ptx_operands import Imm, Operand, Reg, is_special
from ptx_program import Entry, Instruction
from ptx_types import KINDS, RAW

_GARBAGE = 0xA5


class Registers:
    """Arrays over the lanes, made when a register is first seen. What nobody wrote holds garbage."""

    def __init__(self, entry: Entry, lanes: Lanes) -> None:
        self.entry, self.lanes = entry, lanes
        self._arrays: dict[str, np.ndarray] = {}
        self._constants: dict[tuple[int, str], np.ndarray] = {}

    def raw(self, operand: Operand, instruction: Instruction) -> np.ndarray:
        """The array of a register as unsigned integers, predicates as bool; special registers are read-only."""
        if not isinstance(operand, Reg):
            raise instruction.unknown("a register is expected")
        name = operand.name
        if name not in self._arrays:
            kind = self.entry.register_kind(name)
            if kind is None and is_special(name):
                special = self.lanes.special(name, instruction)
                special.flags.writeable = False
                return special
            if kind not in KINDS:
                raise instruction.unknown(f"the interpreter does not know the register {name} of type {kind}")
            dtype = np.dtype(np.bool_) if kind == "pred" else RAW[KINDS[kind].size]
            array = np.empty(self.lanes.n, dtype)
            array.view(np.uint8)[...] = 0 if kind == "pred" else _GARBAGE
            self._arrays[name] = array
        return self._arrays[name]

    def of(self, operand: Operand, kind: str, instruction: Instruction) -> np.ndarray:
        """The array of a register seen as `kind`, to read or to write, or of a constant, to read.

        A PtxError if the register is not as wide as the type.
        """
        dtype = KINDS[kind].dtype
        if isinstance(operand, Imm):
            return self.constant(operand, kind, instruction)
        array = self.raw(operand, instruction)
        if array.dtype.itemsize != dtype.itemsize or (array.dtype == np.bool_) != (kind == "pred"):
            if array.flags.writeable:
                raise instruction.unknown(f"the register {operand.name} is not as wide as .{kind}")
            return array.astype(RAW[dtype.itemsize]).view(dtype)  # special registers are also read as 64 bits
        return array.view(dtype)

    def constant(self, operand: Imm, kind: str, instruction: Instruction) -> np.ndarray:
        """An array that holds a constant in every lane. Floats are rounded to nearest."""
        bits = constant_bits(operand, kind, instruction)
        if (bits, kind) not in self._constants:
            dtype = KINDS[kind].dtype
            if kind == "pred":
                array = np.full(self.lanes.n, bool(bits))
            else:
                array = np.full(self.lanes.n, bits, RAW[dtype.itemsize]).view(dtype)
            array.flags.writeable = False
            self._constants[bits, kind] = array
        return self._constants[bits, kind]


def constant_bits(operand: Imm, kind: str, instruction: Instruction) -> int:
    """The bits of a constant of type `kind`."""
    dtype = KINDS[kind].dtype
    size = dtype.itemsize
    if operand.bits == 0:
        if KINDS[kind].floating:
            raise instruction.unknown(f"the constant {operand.value} is no float")
        return operand.value % (1 << (8 * size))
    if operand.bits == 8 * size:
        return operand.value
    if operand.bits == 64 and kind == "f32":
        value = np.array([operand.value], np.uint64).view(np.float64).astype(np.float32)
        return int(value.view(np.uint32)[0])
    raise instruction.unknown(f"a constant of {operand.bits} bits is not of type .{kind}")
