"""Arithmetic of float16 and bfloat16, single or two in a word.

Sums and products are formed in float32, fma in float64, and rounded to nearest even; what float64 cannot hold of a fma
is rounded twice. Approximations as in `ptx_float`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, count_operands, lanewise
from ptx_extremes import maximum, minimum
from ptx_program import Instruction
from ptx_rounding import BFLOAT16, nearest_or_directed

if TYPE_CHECKING:
    from ptx_machine import Machine

PACKED_OR_HALF = ("f16", "bf16", "f16x2", "bf16x2")
CANONICAL_NAN = np.uint16(0x7FFF)
_DTYPES = {"f16": np.dtype(np.float16), "bf16": BFLOAT16}
_KNOWN = {"rn", "ftz", "sat", "relu", "NaN", "approx"}


def halves(words: np.ndarray) -> np.ndarray:
    """uint32 [n] → uint16 [n, 2], the lower half first."""
    return np.ascontiguousarray(words).view(np.uint16).reshape(-1, 2)


def words(pairs: np.ndarray) -> np.ndarray:
    """uint16 [n, 2] → uint32 [n]."""
    return np.ascontiguousarray(pairs).view(np.uint32).reshape(-1)


def to_float(bits: np.ndarray, kind: str) -> np.ndarray:
    """The float32 numbers that these bits, uint16, are."""
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.ascontiguousarray(bits).view(np.float16).astype(np.float32)


def from_float(values: np.ndarray, kind: str, mode: str = "rn") -> np.ndarray:
    """float32 or float64 numbers to bits, uint16; every NaN becomes the same one."""
    dtype = _DTYPES[kind]
    if mode == "rn" and (kind == "f16" or values.dtype == np.float32):
        found = values.astype(dtype)
    elif mode == "rn":
        found = _nearest_bfloat16(values)
    else:
        found = nearest_or_directed(values.astype(np.float64), dtype, mode)
    bits = np.ascontiguousarray(found).view(np.uint16)
    lost = np.isnan(values)
    return np.where(lost, CANONICAL_NAN, bits) if lost.any() else bits


def _nearest_bfloat16(values: np.ndarray) -> np.ndarray:
    """float64 to bfloat16 with one rounding: towards zero to float32 with a sticky last bit, then to nearest."""
    near = nearest_or_directed(values, np.dtype(np.float32), "rz")
    sticky = (near.astype(np.float64) != values) & np.isfinite(near)
    return (near.view(np.uint32) | sticky.astype(np.uint32)).view(np.float32).astype(BFLOAT16)


def half_step(instruction: Instruction, machine: Machine) -> Step:
    """add, sub, mul, fma, min, max, abs, neg, ex2, tanh of these types."""
    kind = instruction.parts[-1]
    found = set(instruction.parts[:-1])
    if kind not in PACKED_OR_HALF or found - _KNOWN or instruction.name not in _FUNCTIONS:
        raise instruction.unknown()
    packed = kind.endswith("x2")
    base = kind.removesuffix("x2")
    function = _FUNCTIONS[instruction.name]
    count_operands(instruction, {"fma": 4}.get(instruction.name, 3 if instruction.name in _BINARY else 2))
    by_bits = instruction.name in ("abs", "neg")
    storage = "b32" if packed else "b16"
    out, *sources = (machine.read(operand, storage, instruction) for operand in instruction.operands)

    def compute(*bits: np.ndarray) -> np.ndarray:
        if by_bits:
            return function(bits[0])
        values = [to_float(x, base) for x in bits]
        if "ftz" in found:
            values = [_flush(x, base) for x in values]
        result = _apply(instruction.name, function, values, found)
        if "ftz" in found:
            result = _flush(result, base)
        if "sat" in found:
            result = np.where(result > 0, np.minimum(result, 1), 0).astype(result.dtype)
        if "relu" in found:
            result = np.where(result > 0, result, np.where(np.isnan(result), result, 0)).astype(result.dtype)
        return from_float(result, base)

    if not packed:
        return lanewise(compute, out, *sources)
    return lanewise(lambda *x: words(compute(*[halves(part) for part in x])), out, *sources)


def _apply(name: str, function: Callable[..., np.ndarray], values: list[np.ndarray], found: set[str]) -> np.ndarray:
    result = function(*values)
    if name in ("min", "max") and "NaN" in found:
        result = np.where(np.isnan(values[0]) | np.isnan(values[1]), np.float32(np.nan), result)
    return result


def _flush(x: np.ndarray, kind: str) -> np.ndarray:
    smallest = 2.0**-14 if kind == "f16" else 2.0**-126
    return np.where(np.abs(x) < smallest, np.copysign(x.dtype.type(0), x), x)


_BINARY = ("add", "sub", "mul", "min", "max")
_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "min": minimum,
    "max": maximum,
    "fma": lambda a, b, c: a.astype(np.float64) * b + c,
    "abs": lambda bits: bits & np.uint16(0x7FFF),
    "neg": lambda bits: bits ^ np.uint16(0x8000),
    "ex2": lambda x: np.exp2(x.astype(np.float64)).astype(np.float32),
    "tanh": lambda x: np.tanh(x.astype(np.float64)).astype(np.float32),
}
