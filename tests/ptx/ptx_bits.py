"""Logic, shifts, and instructions that move bits about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, count_operands, handles, kind_of, lanewise, options
from ptx_operands import Imm, Not, Operand
from ptx_program import Instruction
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine

_WORDS = ("b16", "b32", "b64")
_LOGIC = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


@handles("and", "or", "xor", "not", "cnot")
def logic(instruction: Instruction, machine: Machine) -> Step:
    kind = kind_of(instruction, "pred", *_WORDS)
    options(instruction)
    out, *sources = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    if instruction.name == "cnot":
        return lanewise(lambda a: (a == 0).astype(a.dtype), out, *sources)
    if instruction.name == "not":
        count_operands(instruction, 2)
        return lanewise(np.logical_not if kind == "pred" else np.invert, out, *sources)
    count_operands(instruction, 3)
    return lanewise(_LOGIC[instruction.name], out, *sources)


@handles("shl", "shr")
def shift(instruction: Instruction, machine: Machine) -> Step:
    """By up to the width of the type; farther shifts give zeros or the sign."""
    kind = kind_of(instruction, *_WORDS, "u16", "u32", "u64", "s16", "s32", "s64")
    options(instruction)
    out, a = (machine.read(operand, kind, instruction) for operand in instruction.operands[:2])
    dtype, amount = KINDS[kind].dtype, instruction.operands[2]
    function = np.left_shift if instruction.name == "shl" else np.right_shift
    by = machine.read(amount, "u32", instruction)
    if isinstance(amount, Imm):
        most = np.minimum(by, np.uint32(8 * dtype.itemsize)).astype(dtype)
        return lanewise(function, out, a, most)
    return lanewise(lambda x, y: function(x, np.minimum(y, np.uint32(8 * dtype.itemsize)).astype(dtype)), out, a, by)


@handles("shf")
def funnel_shift(instruction: Instruction, machine: Machine) -> Step:
    """The upper (l) or lower (r) 32 bits of b:a shifted."""
    kind_of(instruction, "b32")
    found = options(instruction, "l", "r", "wrap", "clamp")
    left = "l" in found

    def function(low: np.ndarray, up: np.ndarray, amount: np.ndarray) -> np.ndarray:
        both = (up.astype(np.uint64) << np.uint64(32)) | low
        by = (amount & 31 if "wrap" in found else np.minimum(amount, 32)).astype(np.uint64)
        return ((both << by) >> np.uint64(32) if left else both >> by).astype(np.uint32)

    out, *sources = (machine.read(operand, "b32", instruction) for operand in instruction.operands)
    return lanewise(function, out, *sources)


@handles("bfe")
def extract(instruction: Instruction, machine: Machine) -> Step:
    """`length` bits of a from bit `start` on; beyond a's end zeros, or for signed types the sign."""
    kind = kind_of(instruction, "u32", "s32", "u64", "s64")
    dtype, bits = KINDS[kind].dtype, 8 * KINDS[kind].size

    def function(a: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        position, count = (start & 255).astype(np.int64), (length & 255).astype(np.int64)
        unsigned = a.view(f"u{dtype.itemsize}")
        shifted = np.where(position < bits, unsigned >> np.minimum(position, bits - 1).astype(unsigned.dtype), 0)
        mask = np.where(count >= bits, ~unsigned.dtype.type(0), _ones(count, unsigned.dtype))
        value = shifted.astype(unsigned.dtype) & mask
        if dtype.kind == "i":
            last = np.minimum(position + count - 1, bits - 1)
            sign = (unsigned >> np.clip(last, 0, bits - 1).astype(unsigned.dtype)) & 1
            held = np.clip(bits - position, 0, count)  # bits that are a's own
            fill = _ones(count, unsigned.dtype) & ~_ones(held, unsigned.dtype)
            value = np.where((sign != 0) & (count > 0), value | fill | ~mask, value)
        return np.where(count == 0, 0, value).astype(unsigned.dtype).view(dtype)

    out, a, start, length = instruction.operands
    return lanewise(
        function,
        machine.write(out, kind, instruction),
        machine.read(a, kind, instruction),
        machine.read(start, "u32", instruction),
        machine.read(length, "u32", instruction),
    )


def _ones(count: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Numbers whose lowest `count` bits are ones."""
    bits = 8 * dtype.itemsize
    below = dtype.type(1) << np.minimum(count, bits - 1).astype(dtype)
    return np.where(count >= bits, ~dtype.type(0), below - dtype.type(1)).astype(dtype)


@handles("bfi")
def insert(instruction: Instruction, machine: Machine) -> Step:
    """b with `length` bits from bit `start` on replaced by the lowest of a."""
    kind = kind_of(instruction, "b32", "b64")
    dtype, bits = KINDS[kind].dtype, 8 * KINDS[kind].size

    def function(a: np.ndarray, b: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
        position, count = (start & 255).astype(np.int64), (length & 255).astype(np.int64)
        by = np.minimum(position, bits - 1).astype(dtype)
        mask = _ones(count, dtype) << by
        return np.where(position >= bits, b, (b & ~mask) | ((a << by) & mask))

    out, a, b, start, length = instruction.operands
    return lanewise(
        function,
        machine.write(out, kind, instruction),
        machine.read(a, kind, instruction),
        machine.read(b, kind, instruction),
        machine.read(start, "u32", instruction),
        machine.read(length, "u32", instruction),
    )


def highest_bit(a: np.ndarray) -> np.ndarray:
    """The place of the highest one, −1 if there is none, int64."""
    place = np.full(a.shape, -1, np.int64)
    rest = a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < 8 * a.dtype.itemsize:
            found = (rest >> a.dtype.type(step)) != 0
            place = np.where(found, place + step, place)
            rest = np.where(found, rest >> a.dtype.type(step), rest)
    return np.where(rest != 0, place + 1, place)


@handles("bfind", "clz", "popc", "brev")
def bit_counts(instruction: Instruction, machine: Machine) -> Step:
    kind = kind_of(instruction, "b32", "b64", "u32", "s32", "u64", "s64")
    found = options(instruction, "shiftamt")
    dtype = KINDS[kind].dtype
    bits, unsigned = 8 * dtype.itemsize, np.dtype(f"u{dtype.itemsize}")

    def function(a: np.ndarray) -> np.ndarray:
        word = a.view(unsigned)
        if instruction.name == "popc":
            return np.bitwise_count(word)
        if instruction.name == "brev":
            ordered = np.ascontiguousarray(word).view(np.uint8).reshape(len(word), -1)
            return (
                np.packbits(np.unpackbits(ordered, axis=1), axis=1, bitorder="little")[:, ::-1]
                .copy()
                .view(unsigned)[:, 0]
            )
        if instruction.name == "clz":
            return bits - 1 - highest_bit(word)
        if dtype.kind == "i":
            word = np.where(a < 0, ~word, word)
        place = highest_bit(word)
        return np.where(place < 0, -1, bits - 1 - place if found else place).astype(np.int32).view(np.uint32)

    out, a = instruction.operands
    written = machine.write(out, kind if instruction.name == "brev" else "u32", instruction)
    return lanewise(function, written, machine.read(a, kind, instruction))


@handles("lop3")
def lop3(instruction: Instruction, machine: Machine) -> Step:
    """Any function of three bits: bit 4a + 2b + c of the table."""
    kind_of(instruction, "b32")
    options(instruction)
    count_operands(instruction, 5)
    out, *sources = (machine.read(operand, "b32", instruction) for operand in instruction.operands[:4])
    table = instruction.operands[4].value

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        result = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return lanewise(function, out, *sources)


_PRMT = {
    "f4e": [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]],
    "b4e": [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]],
    "rc8": [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]],
    "ecl": [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]],
    "ecr": [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]],
    "rc16": [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]],
}
"""For each value of the lowest two bits of the selector: which of the 8 bytes of b:a become bytes 0 … 3."""


@handles("prmt")
def permute(instruction: Instruction, machine: Machine) -> Step:
    """Any four of the 8 bytes of b:a; a selector's highest bit asks for the sign of the byte in all its bits."""
    mode = instruction.parts[-1]
    if (
        instruction.parts[0] != "b32"
        or len(instruction.parts) > 2
        or (len(instruction.parts) == 2 and mode not in _PRMT)
    ):
        raise instruction.unknown()
    table = None if len(instruction.parts) == 1 else np.array(_PRMT[mode])

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        both = np.stack([a, b], axis=1).view(np.uint8)
        if table is not None:
            return np.take_along_axis(both, table[c & 3], axis=1).copy().view(np.uint32)[:, 0]
        selectors = (c[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & 15
        found = np.take_along_axis(both, (selectors & 7).astype(np.int64), axis=1)
        signs = np.where(found & 0x80, np.uint8(0xFF), np.uint8(0))
        return np.where(selectors & 8, signs, found).copy().view(np.uint32)[:, 0]

    out, *sources = (machine.read(operand, "b32", instruction) for operand in instruction.operands)
    return lanewise(function, out, *sources)


@handles("szext", "bmsk")
def masks(instruction: Instruction, machine: Machine) -> Step:
    """szext: the lowest `b` bits of a with zeros or their sign above; bmsk: `b` ones from bit a on."""
    kind = kind_of(instruction, "u32", "s32", "b32")
    found = options(instruction, "wrap", "clamp")

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        word = a.view(np.uint32)
        count = (b & 31 if "wrap" in found else np.minimum(b, 32)).astype(np.int64)
        if instruction.name == "bmsk":
            start = (word & 31 if "wrap" in found else np.minimum(word, 32)).astype(np.uint64)
            return (_ones(count, np.dtype(np.uint32)).astype(np.uint64) << start).astype(np.uint32)
        mask = _ones(count, np.dtype(np.uint32))
        value = word & mask
        sign = (word >> np.clip(count - 1, 0, 31).astype(np.uint32)) & 1
        negative = (sign != 0) & (count > 0) & (kind == "s32")
        return np.where(negative, value | ~mask, value).view(a.dtype)

    out, a, b = instruction.operands
    return lanewise(
        function,
        machine.write(out, kind, instruction),
        machine.read(a, kind, instruction),
        machine.read(b, "u32", instruction),
    )


def read_predicate(operand: Operand, machine: Machine, instruction: Instruction) -> tuple[np.ndarray, bool]:
    """A predicate and whether it is negated."""
    if isinstance(operand, Not):
        return machine.read(operand.of, "pred", instruction), True
    return machine.read(operand, "pred", instruction), False
