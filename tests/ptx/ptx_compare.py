"""Comparisons and choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_bits import read_predicate
from ptx_decode import Step, count_operands, handles, kind_of, lanewise
from ptx_half import halves, to_float
from ptx_lanes import Active
from ptx_operands import Both, Sink
from ptx_program import Instruction
from ptx_rounding import flush
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine

_ORDERED = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
_COMPARED = ("b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64")
_FLOATS = ("f16", "bf16", "f32", "f64")
_PAIRS = ("f16x2", "bf16x2")
_COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(name: str, kind: str, *, ftz: bool, instruction: Instruction) -> Callable[..., np.ndarray]:
    """The function of two arrays of `kind` for a comparison such as `leu`."""
    if kind in _FLOATS:
        return _float_comparison(name, kind, ftz=ftz, instruction=instruction)
    name = _UNSIGNED.get(name, name)
    if name not in _ORDERED or ftz:
        raise instruction.unknown()
    return _ORDERED[name]


def _float_comparison(name: str, kind: str, *, ftz: bool, instruction: Instruction) -> Callable[..., np.ndarray]:
    """Comparisons that are false where an operand is NaN, or with a u behind them true."""
    unordered = name.endswith("u") and name[:-1] in _ORDERED
    base = name[:-1] if unordered else name
    if base not in _ORDERED and base not in ("num", "nan"):
        raise instruction.unknown()
    plain = kind in ("f32", "f64")

    def function(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not plain:
            a, b = to_float(a.view(np.uint16), kind), to_float(b.view(np.uint16), kind)
        if ftz:
            a, b = flush(a), flush(b)
        if base == "num":
            return ~(np.isnan(a) | np.isnan(b))
        if base == "nan":
            return np.isnan(a) | np.isnan(b)
        found = _ORDERED[base](a, b)
        if unordered and base != "ne":
            found |= np.isnan(a) | np.isnan(b)
        if not unordered and base == "ne":
            found &= ~(np.isnan(a) | np.isnan(b))
        return found

    if plain and not ftz and ((base in ("eq", "lt", "le", "gt", "ge") and not unordered) or name == "neu"):
        return _ORDERED[base]  # as NumPy compares
    return function


@handles("setp", "set")
def set_predicate(instruction: Instruction, machine: Machine) -> Step:
    """setp.cmp{.and|.or|.xor}{.ftz}.type p{|q}, a, b{, c}; set.cmp.dtype.stype d, a, b{, c}."""
    parts = list(instruction.parts)
    kind = parts.pop()
    result = parts.pop() if instruction.name == "set" else "pred"
    ftz = "ftz" in parts
    combine = next((part for part in parts if part in _COMBINED), None)
    names = [part for part in parts if part not in ("ftz", combine)]
    if len(names) != 1 or kind not in (*_COMPARED, *_FLOATS, *_PAIRS):
        raise instruction.unknown()
    count_operands(instruction, 4 if combine else 3)
    out, a, b, *c = instruction.operands
    x, y = machine.read(a, kind, instruction), machine.read(b, kind, instruction)
    other, negated = read_predicate(c[0], machine, instruction) if combine else (None, False)
    if kind in _PAIRS:
        return _set_pairs(instruction, machine, names[0], kind, ftz, (out, x, y), (combine, other, negated), result)
    function = comparison(names[0], kind, ftz=ftz, instruction=instruction)
    if not combine and not isinstance(out, Both) and result == "pred":
        return lanewise(function, machine.write(out, "pred", instruction), x, y)
    first, second = (out.first, out.second) if isinstance(out, Both) else (out, Sink())
    written = None if isinstance(first, Sink) else machine.write(first, result, instruction)
    inverse = None if isinstance(second, Sink) else machine.write(second, "pred", instruction)

    def step(active: Active) -> None:
        found = function(active.take(x), active.take(y))
        against = ~found
        if combine:
            with_ = active.take(other) ^ negated
            found, against = _COMBINED[combine](found, with_), _COMBINED[combine](against, with_)
        if written is not None:
            written[active.index] = _truth(found, result)
        if inverse is not None:
            inverse[active.index] = against

    return step


def _truth(found: np.ndarray, result: str) -> np.ndarray:
    if result == "pred":
        return found
    return np.where(found, 1.0, 0.0) if KINDS[result].floating else np.where(found, -1, 0)


def _set_pairs(instruction, machine, name, kind, ftz, operands, combination, result) -> Step:
    """The lower half decides the first predicate, the upper one the second."""
    out, x, y = operands
    combine, other, negated = combination
    if not isinstance(out, Both) or result != "pred":
        raise instruction.unknown()
    function = comparison(name, kind[:-2], ftz=ftz, instruction=instruction)
    written = [machine.write(operand, "pred", instruction) for operand in (out.first, out.second)]

    def step(active: Active) -> None:
        a, b = halves(active.take(x)), halves(active.take(y))
        for i, array in enumerate(written):
            found = function(a[:, i].copy(), b[:, i].copy())
            if combine:
                found = _COMBINED[combine](found, active.take(other) ^ negated)
            array[active.index] = found

    return step


@handles("selp")
def select(instruction: Instruction, machine: Machine) -> Step:
    kind = kind_of(instruction, *_COMPARED, "f32", "f64")
    count_operands(instruction, 4)
    out, a, b, p = instruction.operands
    condition, negated = read_predicate(p, machine, instruction)
    sources = [machine.read(operand, kind, instruction) for operand in (a, b)]
    if negated:
        sources.reverse()
    return lanewise(lambda c, x, y: np.where(c, x, y), machine.write(out, kind, instruction), condition, *sources)


@handles("slct")
def select_by_sign(instruction: Instruction, machine: Machine) -> Step:
    """a where c ≥ 0, else b; NaN is not ≥ 0."""
    *rest, kind, by = instruction.parts
    if by not in ("s32", "f32") or set(rest) - {"ftz"} or kind not in (*_COMPARED, "f32", "f64"):
        raise instruction.unknown()
    out, a, b, c = instruction.operands

    def choose(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.where((flush(z) if rest else z) >= 0, x, y)

    return lanewise(
        choose,
        machine.write(out, kind, instruction),
        machine.read(a, kind, instruction),
        machine.read(b, kind, instruction),
        machine.read(c, by, instruction),
    )
