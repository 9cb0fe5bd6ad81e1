"""Arithmetic of float32 and float64.

add, sub, mul, fma, div.rn, rcp.rn and sqrt.rn are correctly rounded, fma as `ptx_rounding` says. Approximations (ex2,
lg2, sin, cos, tanh, rsqrt, rcp, div.full, …) are computed in float64 and rounded: a GPU's are off by a few units in the
last place where these are not, tanh.approx by 2^−11. A NaN that arithmetic makes is some NaN, not always 0x7FFFFFFF.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, count_operands, handles, lanewise
from ptx_extremes import maximum, minimum, saturated
from ptx_half import half_step
from ptx_lanes import Active
from ptx_program import Instruction
from ptx_rounding import (
    MODES,
    directed_float64,
    flush,
    fused,
    fused_directed,
    fused_float64,
    odd,
    odd_sum,
    to_float32,
)
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine

_KNOWN = {*MODES, "ftz", "sat", "approx", "full", "NaN"}
Function = Callable[..., np.ndarray]


def float_step(instruction: Instruction, machine: Machine) -> Step:
    """add, sub, mul, fma, mad, div, min, max, abs, neg of f32 and f64."""
    kind = instruction.parts[-1]
    found = set(instruction.parts[:-1])
    if found - _KNOWN or len(found & set(MODES)) > 1:
        raise instruction.unknown()
    name = instruction.name
    count_operands(instruction, {"fma": 4, "mad": 4, "abs": 2, "neg": 2}.get(name, 3))
    out, *sources = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    mode = next(iter(found & set(MODES)), "rn")
    if name in ("abs", "neg"):
        return _sign_step(name, kind, "ftz" in found, out, sources[0])
    if not found - {"rn", "ftz"} and kind == "f32" and "ftz" not in found and name in ("fma", "mad"):
        return _fma_step(out, *sources)
    function = _function(name, kind, mode, found, instruction)
    return lanewise(_finished(function, found), out, *sources)


def _finished(function: Function, found: set[str]) -> Function:
    """The function with operands and result as .ftz and .sat say."""
    ftz, sat = "ftz" in found, "sat" in found
    if not ftz and not sat:
        return function

    def finished(*sources: np.ndarray) -> np.ndarray:
        result = function(*[flush(x) for x in sources] if ftz else sources)
        result = np.asarray(result, sources[0].dtype)
        if sat:
            result = saturated(result)
        return flush(result) if ftz else result

    return finished


def _function(name: str, kind: str, mode: str, found: set[str], instruction: Instruction) -> Function:
    if name in ("min", "max"):
        if "NaN" in found:
            plain = minimum if name == "min" else maximum
            return lambda a, b: np.where(np.isnan(a) | np.isnan(b), a.dtype.type(np.nan), plain(a, b))
        return minimum if name == "min" else maximum
    if "NaN" in found:
        raise instruction.unknown()
    functions = _FLOAT32 if kind == "f32" else _FLOAT64
    plain, directed = functions["fma" if name == "mad" else name]
    if mode == "rn":
        return plain
    if directed is None:
        raise instruction.unknown()
    return lambda *sources: directed(*sources, mode)


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


def _divide_directed(a: np.ndarray, b: np.ndarray, mode: str) -> np.ndarray:
    x, y = _double(a), _double(b)
    quotient = x / y
    return to_float32(odd(quotient, np.sign(fused_float64(-quotient, y, x)) * np.sign(y)), mode)


def _root_directed(a: np.ndarray, mode: str) -> np.ndarray:
    x = _double(a)
    root = np.sqrt(x)
    return to_float32(odd(root, fused_float64(-root, root, x)), mode)


_FLOAT32: dict[str, tuple[Function, Function | None]] = {
    "add": (np.add, lambda a, b, mode: to_float32(odd_sum(_double(a), _double(b)), mode)),
    "sub": (np.subtract, lambda a, b, mode: to_float32(odd_sum(_double(a), -_double(b)), mode)),
    "mul": (np.multiply, lambda a, b, mode: to_float32(_double(a) * _double(b), mode)),
    "fma": (lambda a, b, c: fused(a, b, c).astype(np.float32), fused_directed),
    "div": (np.divide, _divide_directed),
}


def _sum_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a + b
    part = total - a
    return (a - (total - part)) + (b - part)


_FLOAT64: dict[str, tuple[Function, Function | None]] = {
    "add": (np.add, lambda a, b, mode: directed_float64(a + b, _sum_error(a, b), mode)),
    "sub": (np.subtract, lambda a, b, mode: directed_float64(a - b, _sum_error(a, -b), mode)),
    "mul": (np.multiply, lambda a, b, mode: directed_float64(a * b, fused_float64(a, b, -(a * b)), mode)),
    "fma": (fused_float64, None),
    "div": (np.divide, None),
}


def _fma_step(out: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Step:
    def step(active: Active) -> None:
        alu = active.alu
        if alu is None:
            out[...] = fused(a, b, c)
        else:
            out[alu] = fused(a[alu], b[alu], c[alu])

    return step


def _sign_step(name: str, kind: str, ftz: bool, out: np.ndarray, source: np.ndarray) -> Step:
    """By bits, so that a NaN keeps its own."""
    size = KINDS[kind].size
    top = np.array(1 << (8 * size - 1), f"u{size}")
    out, source = out.view(f"u{size}"), source.view(f"u{size}")

    def function(x: np.ndarray) -> np.ndarray:
        result = x & ~top if name == "abs" else x ^ top
        return flush(result.view(np.float32)).view(np.uint32) if ftz else result

    return lanewise(function, out, source)


def _rounded(function: Function) -> Function:
    """Computed in float64, rounded to the operand's type."""
    return lambda x: function(x.astype(np.float64)).astype(x.dtype)


_UNARY: dict[str, Function] = {
    "rcp": _rounded(np.reciprocal),
    "sqrt": np.sqrt,
    "rsqrt": _rounded(lambda x: 1.0 / np.sqrt(x)),
    "ex2": _rounded(np.exp2),
    "lg2": _rounded(np.log2),
    "sin": _rounded(np.sin),
    "cos": _rounded(np.cos),
    "tanh": _rounded(np.tanh),
}
_DIRECTED: dict[str, Function] = {
    "rcp": lambda x, mode: _divide_directed(np.ones_like(x), x, mode),
    "sqrt": _root_directed,
}


@handles(*_UNARY)
def unary(instruction: Instruction, machine: Machine) -> Step:
    kind, found = instruction.parts[-1], set(instruction.parts[:-1])
    if kind not in ("f32", "f64"):
        return half_step(instruction, machine)
    mode = next(iter(found & set(MODES)), "rn")
    if found - {"approx", "ftz", *MODES}:
        raise instruction.unknown()
    function = _UNARY[instruction.name]
    if mode != "rn":
        if instruction.name not in _DIRECTED or kind != "f32":
            raise instruction.unknown()
        function = partial(_DIRECTED[instruction.name], mode=mode)
    ftz = found & {"ftz"} if kind == "f32" else set()
    out, source = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    return lanewise(_finished(function, ftz), out, source)


@handles("copysign")
def copysign(instruction: Instruction, machine: Machine) -> Step:
    """b with the sign of a."""
    kind = instruction.parts[-1]
    out, a, b = (machine.read(operand, kind, instruction) for operand in instruction.operands)
    return lanewise(lambda x, y: np.copysign(y, x), out, a, b)


@handles("testp")
def number_test(instruction: Instruction, machine: Machine) -> Step:
    what, kind = instruction.parts
    dtype = KINDS[kind].dtype
    tiny = np.finfo(dtype).tiny  # zeros count as normal
    functions: dict[str, Function] = {
        "finite": np.isfinite,
        "infinite": np.isinf,
        "number": lambda x: ~np.isnan(x),
        "notanumber": np.isnan,
        "normal": lambda x: np.isfinite(x) & ((np.abs(x) >= tiny) | (x == 0)),
        "subnormal": lambda x: (np.abs(x) < tiny) & (x != 0),
    }
    if what not in functions:
        raise instruction.unknown()
    out, a = instruction.operands
    return lanewise(functions[what], machine.write(out, "pred", instruction), machine.read(a, kind, instruction))
