"""cvt: between integers and floats of all widths, packed ones too.

Floats become integers within the integer's range, NaN becomes 0; integers become floats, and floats narrower floats,
with one rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
from ptx_decode import Step, count_operands, handles, lanewise
from ptx_extremes import saturated
from ptx_half import from_float, halves, to_float, words
from ptx_operands import Imm, Sym
from ptx_program import Instruction
from ptx_rounding import MODES, flush, nearest_or_directed
from ptx_types import KINDS, RAW

if TYPE_CHECKING:
    from ptx_machine import Machine

_INTEGER_MODES = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_FLOATS = ("f16", "bf16", "f32", "f64")
_PACKED = ("f16x2", "bf16x2", "e4m3x2", "e5m2x2")
_BYTES = {
    "e4m3x2": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0, 0x7F),
    "e5m2x2": (np.dtype(ml_dtypes.float8_e5m2), 57344.0, 0x7F),
}
Function = Callable[..., np.ndarray]


@handles("cvt")
def convert(instruction: Instruction, machine: Machine) -> Step:
    parts = list(instruction.parts)
    if parts[0] == "pack":
        return _pack_integers(instruction, machine)
    if len(parts) < 2 or parts[-1] not in KINDS or parts[-2] not in KINDS:
        raise instruction.unknown()
    source, result = parts.pop(), parts.pop()
    found = set(parts)
    if source in _PACKED or result in _PACKED:
        return _convert_packed(instruction, machine, source, result, found)
    count_operands(instruction, 2)
    if result == "tf32":
        return _convert_tf32(instruction, machine, found)
    if found - {*MODES, *_INTEGER_MODES, "ftz", "sat", "relu", "satfinite"}:
        raise instruction.unknown()
    out, operand = instruction.operands
    function = _scalar(source, result, found, instruction)
    return lanewise(
        function, _result(out, result, instruction, machine), _source(operand, source, instruction, machine)
    )


def _source(operand, kind: str, instruction: Instruction, machine: Machine) -> np.ndarray:
    """The operand's array; a register may be wider than the type, then its lowest bits count."""
    if isinstance(operand, Imm | Sym):
        return machine.read(operand, kind, instruction)
    raw = machine.registers.raw(operand, instruction)
    size = KINDS[kind].size
    if raw.dtype.itemsize < size or raw.dtype == np.bool_:
        raise instruction.unknown(f"the register {operand.name} is narrower than .{kind}")
    return raw if raw.dtype.itemsize > size else raw.view(KINDS[kind].dtype)


def _result(operand, kind: str, instruction: Instruction, machine: Machine) -> np.ndarray:
    """The register as what it is: results of narrower integers are extended to it, as _scalar sees to."""
    raw = machine.registers.raw(operand, instruction)
    size = KINDS[kind].size
    if raw.dtype.itemsize < size or (KINDS[kind].floating and raw.dtype.itemsize != size):
        raise instruction.unknown(f"the register {operand.name} is not as wide as .{kind}")
    if raw.dtype.itemsize > size:
        return raw.view(f"i{raw.dtype.itemsize}") if KINDS[kind].signed else raw
    return raw if KINDS[kind].name in ("f16", "bf16") else raw.view(KINDS[kind].dtype)


def _scalar(source: str, result: str, found: set[str], instruction: Instruction) -> Function:
    """A function of the source's array to one that is assigned to the result's register."""
    from_float_kind, to_float_kind = KINDS[source].floating, KINDS[result].floating
    if from_float_kind and to_float_kind:
        return _float_to_float(source, result, found, instruction)
    if from_float_kind:
        return _float_to_integer(source, result, found, instruction)
    narrow = _narrowed(source)
    if to_float_kind:
        return _integer_to_float(source, result, found, instruction, narrow)
    if found - {"sat"}:
        raise instruction.unknown()
    target = KINDS[result].dtype
    if not found:
        if KINDS[source].dtype.itemsize == target.itemsize:
            return lambda a: narrow(a).view(target)
        return lambda a: narrow(a).astype(target)
    low, high = np.iinfo(target).min, np.iinfo(target).max

    def clamp(a: np.ndarray) -> np.ndarray:
        value = narrow(a)
        limits = np.iinfo(value.dtype)
        return np.clip(value, max(low, limits.min), min(high, limits.max)).astype(target)

    return clamp


def _narrowed(kind: str) -> Function:
    """Takes the lowest bits of a wider register."""
    dtype = KINDS[kind].dtype
    return lambda a: a if a.dtype == dtype else a.astype(RAW[dtype.itemsize]).view(dtype)


def _as_double(kind: str, ftz: bool) -> Function:
    """A float's bits or values as float64, which holds them all."""
    if kind in ("f16", "bf16"):
        narrow = _narrowed("b16")
        return lambda a: to_float(narrow(a.view(RAW[a.dtype.itemsize])), kind).astype(np.float64)
    if kind == "f32" and ftz:
        return lambda a: flush(a).astype(np.float64)
    return lambda a: a.astype(np.float64)


def _float_to_integer(source: str, result: str, found: set[str], instruction: Instruction) -> Function:
    modes = found & set(_INTEGER_MODES)
    if len(modes) != 1 or found - modes - {"ftz", "sat"}:
        raise instruction.unknown("a conversion to an integer needs one of .rni, .rzi, .rmi, .rpi")
    whole, read = _INTEGER_MODES[modes.pop()], _as_double(source, "ftz" in found)
    target = KINDS[result].dtype
    limits = np.iinfo(target)
    top = float(limits.max) + 1 if target.itemsize == 8 else float(limits.max)

    def function(a: np.ndarray) -> np.ndarray:
        value = whole(read(a))
        over, under = value >= top, value <= float(limits.min)
        safe = np.where(over | under | np.isnan(value), 0.0, value).astype(target)
        safe = np.where(over, target.type(limits.max), safe)
        return np.where(under, target.type(limits.min), safe)

    return function


def _integer_to_float(
    source: str, result: str, found: set[str], instruction: Instruction, narrow: Function
) -> Function:
    modes = found & set(MODES)
    if len(modes) != 1 or found - modes - {"sat"}:
        raise instruction.unknown("a conversion to a float needs a rounding mode")
    mode, wide = modes.pop(), KINDS[source].size == 8
    if wide and (mode != "rn" or result not in ("f32", "f64")):
        raise instruction.unknown("the interpreter rounds 64-bit integers only to nearest, to f32 and f64")

    def function(a: np.ndarray) -> np.ndarray:
        value = narrow(a)
        if wide:
            found_value = value.astype(KINDS[result].dtype)
        elif result in ("f16", "bf16"):
            return from_float(value.astype(np.float64), result, mode)
        else:
            found_value = nearest_or_directed(value.astype(np.float64), KINDS[result].dtype, mode)
        return saturated(found_value) if "sat" in found else found_value

    return function


def _float_to_float(source: str, result: str, found: set[str], instruction: Instruction) -> Function:
    modes, integer_modes = found & set(MODES), found & set(_INTEGER_MODES)
    if found - modes - integer_modes - {"ftz", "sat", "relu", "satfinite"} or len(modes | integer_modes) > 1:
        raise instruction.unknown()
    narrower = KINDS[result].size < KINDS[source].size or {source, result} == {"f16", "bf16"}
    if narrower and not modes:
        raise instruction.unknown("a conversion to a narrower float needs a rounding mode")
    mode = next(iter(modes), "rn")
    read = _as_double(source, "ftz" in found)
    whole = _INTEGER_MODES[integer_modes.pop()] if integer_modes else None

    def function(a: np.ndarray) -> np.ndarray:
        value = read(a)
        if whole is not None:
            value = whole(value)
        if "sat" in found:
            value = saturated(value)
        if "relu" in found:
            value = np.where(np.isnan(value) | (value > 0), value, 0.0)
        if "satfinite" in found:
            most = {"f16": 65504.0, "bf16": float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)}[result]
            value = np.where(np.isnan(value), value, np.clip(value, -most, most))
        if result in ("f16", "bf16"):
            return from_float(value, result, mode)
        value = nearest_or_directed(value, KINDS[result].dtype, mode)
        return flush(value) if "ftz" in found and result == "f32" else value

    if source == "f16" and result == "f32" and not found:
        return lambda a: to_float(a.view(RAW[a.dtype.itemsize]).astype(np.uint16, copy=False), "f16")
    return function


def _convert_tf32(instruction: Instruction, machine: Machine, found: set[str]) -> Step:
    """To 10 bits of mantissa, the others zero: rna: ties away from zero; rn: ties to even."""
    if not found & {"rna", "rn", "rz"} or found - {"rna", "rn", "rz", "relu", "satfinite"}:
        raise instruction.unknown()

    def function(bits: np.ndarray) -> np.ndarray:
        value = bits
        if "relu" in found:
            value = np.where(bits.view(np.float32) > 0, bits, np.where(np.isnan(bits.view(np.float32)), bits, 0))
        add = {"rna": 0x1000, "rn": 0x0FFF, "rz": 0}[next(iter(found & {"rna", "rn", "rz"}))]
        even = ((value >> np.uint32(13)) & 1) if "rn" in found else np.uint32(0)
        rounded = (value + np.uint32(add) + even) & np.uint32(0xFFFFE000)
        special = (bits & np.uint32(0x7F800000)) == 0x7F800000
        quiet = (bits & np.uint32(0xFFFFE000)) | np.uint32(0x00400000)
        return np.where(special, np.where(np.isnan(bits.view(np.float32)), quiet, bits), rounded)

    out, source = instruction.operands
    return lanewise(function, machine.write(out, "b32", instruction), machine.read(source, "b32", instruction))


def _to_bytes(values: np.ndarray, kind: str, relu: bool) -> np.ndarray:
    """float32 or float64 [n, 2] to bytes of this 8-bit float, saturated: uint8 [n, 2]."""
    dtype, most, nan = _BYTES[kind]
    values = np.where(values < 0, 0, values) if relu else values
    bits = np.clip(values, -most, most).astype(np.float32).astype(dtype).view(np.uint8)
    return np.where(np.isnan(values), np.uint8(nan), bits)


def _convert_packed(instruction: Instruction, machine: Machine, source: str, result: str, found: set[str]) -> Step:
    """Two numbers at once. From f32 there are two operands, of which the first becomes the upper half."""
    if found - {"rn", "rz", "relu", "satfinite"}:
        raise instruction.unknown()
    relu = "relu" in found
    mode = "rz" if "rz" in found else "rn"
    out, *operands = instruction.operands
    written = machine.write(out, "b16" if result in _BYTES else "b32", instruction)
    if source == "f32":
        count_operands(instruction, 3)
        upper, lower = (machine.read(operand, "f32", instruction) for operand in operands)

        def from_floats(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            values = np.stack([b, a], axis=1)
            if result in _BYTES:
                return _to_bytes(values, result, relu).view(np.uint16)[:, 0]
            if relu:
                values = np.where(np.isnan(values) | (values > 0), values, np.float32(0))
            if "satfinite" in found:
                most = 65504.0 if result == "f16x2" else float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
                values = np.where(np.isnan(values), values, np.clip(values, -most, most)).astype(np.float32)
            return words(from_float(values, result[:-2], mode))

        return lanewise(from_floats, written, upper, lower)
    count_operands(instruction, 2)
    if source == "f16x2" and result in _BYTES:
        pairs = machine.read(operands[0], "b32", instruction)
        return lanewise(
            lambda a: _to_bytes(to_float(halves(a), "f16"), result, relu).view(np.uint16)[:, 0], written, pairs
        )
    if source in _BYTES and result == "f16x2":
        dtype = _BYTES[source][0]
        word = machine.read(operands[0], "b16", instruction)

        def to_halves(a: np.ndarray) -> np.ndarray:
            values = np.ascontiguousarray(a).view(np.uint8).view(dtype).reshape(-1, 2).astype(np.float32)
            if relu:
                values = np.where(np.isnan(values) | (values > 0), values, np.float32(0))
            return words(from_float(values, "f16"))

        return lanewise(to_halves, written, word)
    raise instruction.unknown()


def _pack_integers(instruction: Instruction, machine: Machine) -> Step:
    """cvt.pack.sat.type.s32{.b32} d, a, b{, c}: a and b saturated, b lowest, and c moved up behind them."""
    _, sat, kind, *rest = instruction.parts
    if sat != "sat" or kind not in ("s8", "u8", "s16", "u16") or rest not in (["s32"], ["s32", "b32"]):
        raise instruction.unknown()
    count_operands(instruction, 3 + len(rest) - 1)
    bits = 8 * KINDS[kind].size
    limits, mask = np.iinfo(KINDS[kind].dtype), (1 << bits) - 1

    def function(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
        upper, lower = (np.clip(x, limits.min, limits.max).astype(np.int64) & mask for x in (a, b))
        whole = (upper << bits) | lower
        if c:
            whole |= c[0].astype(np.int64) << (2 * bits)
        return whole.astype(np.uint32)

    out, *operands = instruction.operands
    sources = [machine.read(operand, "s32" if i < 2 else "b32", instruction) for i, operand in enumerate(operands)]
    return lanewise(function, machine.write(out, "b32", instruction), *sources)
