"""Integer arithmetic. Names that floats share (add, mul, fma, min, …) go to them where the type is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, count_operands, handles, kind_of, lanewise, options
from ptx_float import float_step
from ptx_half import PACKED_OR_HALF, half_step
from ptx_program import Instruction
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine

INTEGERS = ("u16", "u32", "u64", "s16", "s32", "s64")
_PAIRS = ("u16x2", "s16x2")
_TWICE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


@handles("add", "sub", "mul", "mad", "fma", "div", "min", "max", "abs", "neg")
def arithmetic(instruction: Instruction, machine: Machine) -> Step:
    kind = instruction.parts[-1]
    if kind in ("f32", "f64"):
        return float_step(instruction, machine)
    if kind in PACKED_OR_HALF:
        return half_step(instruction, machine)
    if kind in _PAIRS:
        return _pairs(instruction, machine, kind)
    kind_of(instruction, *INTEGERS)
    return _INTEGER[instruction.name](instruction, machine, kind)


def _plain(function: Callable[..., np.ndarray]):
    """All operands of the instruction's type."""

    def handler(instruction: Instruction, machine: Machine, kind: str) -> Step:
        options(instruction)
        out, *sources = instruction.operands
        return lanewise(
            function,
            machine.write(out, kind, instruction),
            *[machine.read(source, kind, instruction) for source in sources],
        )

    return handler


def _add(instruction: Instruction, machine: Machine, kind: str) -> Step:
    count_operands(instruction, 3)
    found = options(instruction, "sat")
    function = np.add if instruction.name == "add" else np.subtract
    if not found:
        return _plain(function)(instruction, machine, kind)
    if kind != "s32":
        raise instruction.unknown()
    out, a, b = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    return lanewise(lambda x, y: np.clip(function(x, y, dtype=np.int64), -(2**31), 2**31 - 1), out, a, b)


def high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of the product, of a and b's type."""
    size = 8 * a.dtype.itemsize
    if size < 64:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(size)).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> shift, y & low, y >> shift
    middle = x1 * y0 + (x0 * y0 >> shift)
    other = x0 * y1 + (middle & low)
    result = x1 * y1 + (middle >> shift) + (other >> shift)
    if a.dtype.kind == "i":
        result = result - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return result.view(a.dtype)


def wide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The whole product, of the type twice as wide."""
    twice = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
    return np.multiply(a, b, dtype=twice)


def _multiply(instruction: Instruction, machine: Machine, kind: str) -> Step:
    found = options(instruction, "lo", "hi", "wide")
    add = instruction.name == "mad"
    count_operands(instruction, 4 if add else 3)
    if len(found) != 1:
        raise instruction.unknown()
    result_kind = _TWICE[kind] if "wide" in found else kind
    product = {"lo": np.multiply, "hi": high, "wide": wide}[found.pop()]
    out, a, b, *c = instruction.operands
    written = machine.write(out, result_kind, instruction)
    sources = [machine.read(operand, kind, instruction) for operand in (a, b)]
    if not add:
        return lanewise(product, written, *sources)
    sources.append(machine.read(c[0], result_kind, instruction))
    return lanewise(lambda x, y, z: product(x, y) + z, written, *sources)


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b rounded towards zero; all ones where b is 0."""
    if a.dtype.kind == "u":
        found = np.floor_divide(a, np.where(b == 0, b.dtype.type(1), b))
    else:
        safe = np.where((b == 0) | (b == -1), b.dtype.type(1), b)
        found = np.floor_divide(a, safe)
        found += ((found < 0) & (found * safe != a)).astype(a.dtype)
        found = np.where(b == -1, -a, found)
    return np.where(b == 0, ~np.zeros_like(found), found)


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a − b · (a / b); all ones where b is 0."""
    return np.where(b == 0, ~np.zeros_like(a), a - quotient(a, b) * b)


def _minimum(instruction: Instruction, machine: Machine, kind: str) -> Step:
    count_operands(instruction, 3)
    return _plain(np.minimum if instruction.name == "min" else np.maximum)(instruction, machine, kind)


_INTEGER = {
    "add": _add,
    "sub": _add,
    "mul": _multiply,
    "mad": _multiply,
    "div": _plain(quotient),
    "min": _minimum,
    "max": _minimum,
    "abs": _plain(np.abs),
    "neg": _plain(np.negative),
}


@handles("rem")
def rem(instruction: Instruction, machine: Machine) -> Step:
    return _plain(remainder)(instruction, machine, kind_of(instruction, *INTEGERS))


@handles("sad")
def sad(instruction: Instruction, machine: Machine) -> Step:
    """|a − b| + c."""

    def distance(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return (np.maximum(a, b) - np.minimum(a, b)) + c

    return _plain(distance)(instruction, machine, kind_of(instruction, *INTEGERS))


@handles("mul24", "mad24")
def multiply24(instruction: Instruction, machine: Machine) -> Step:
    """Products of the lower 24 bits, their lower or upper 32 of 48 bits."""
    kind, found = kind_of(instruction, "u32", "s32"), options(instruction, "lo", "hi")
    shift = 16 if "hi" in found else 0

    def cut(x: np.ndarray) -> np.ndarray:
        whole = x.astype(np.int64) & 0xFFFFFF
        return (whole ^ 0x800000) - 0x800000 if kind == "s32" else whole

    def function(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
        product = ((cut(a) * cut(b)) >> shift).astype(np.uint32).view(a.dtype)
        return product + c[0] if c else product

    out, *sources = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    return lanewise(function, out, *sources)


def _pairs(instruction: Instruction, machine: Machine, kind: str) -> Step:
    functions = {"add": np.add, "min": np.minimum, "max": np.maximum}
    options(instruction)
    if instruction.name not in functions:
        raise instruction.unknown()
    dtype, function = KINDS[kind[:3]].dtype, functions[instruction.name]
    out, a, b = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    return lanewise(lambda x, y: function(x.view(dtype), y.view(dtype)).view(np.uint32), out, a, b)


@handles("dp4a", "dp2a")
def dot_product(instruction: Instruction, machine: Machine) -> Step:
    """c plus the sum of products of 4 bytes, or of 2 halves of a and the lower or upper two bytes of b."""
    parts = list(instruction.parts)
    upper = "hi" in parts
    kinds = [part for part in parts if part in ("u32", "s32")]
    if len(kinds) != 2 or set(parts) - {"u32", "s32", "lo", "hi"}:
        raise instruction.unknown()
    signed = "s32" if "s32" in kinds else "u32"
    four = instruction.name == "dp4a"
    sizes = (1 if four else 2, 1)
    dtypes = [np.dtype(f"{'i' if kind == 's32' else 'u'}{size}") for kind, size in zip(kinds, sizes, strict=True)]

    def function(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(a).view(dtypes[0]).reshape(len(a), -1).astype(np.int64)
        y = np.ascontiguousarray(b).view(dtypes[1]).reshape(len(b), -1).astype(np.int64)
        if not four:
            y = y[:, 2:] if upper else y[:, :2]
        return (c.astype(np.int64) + (x * y).sum(axis=1)).astype(np.uint32).view(c.dtype)

    out, a, b, c = instruction.operands
    return lanewise(
        function,
        machine.write(out, signed, instruction),
        machine.read(a, "u32", instruction),
        machine.read(b, "u32", instruction),
        machine.read(c, signed, instruction),
    )
