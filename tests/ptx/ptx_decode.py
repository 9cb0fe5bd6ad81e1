"""Instructions to functions. A handler binds one instruction to the arrays of its operands, once a launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_lanes import Active
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

Step = Callable[[Active], None]
Handler = Callable[[Instruction, "Machine"], Step]

HANDLERS: dict[str, Handler] = {}
"""By the first part of an instruction's name."""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Registers a handler for the instructions that begin with these names."""

    def register(handler: Handler) -> Handler:
        for name in names:
            assert name not in HANDLERS, name
            HANDLERS[name] = handler
        return handler

    return register


def decode(instruction: Instruction, machine: Machine) -> Step:
    """Raises PtxError for what the interpreter does not know."""
    handler = HANDLERS.get(instruction.name)
    if handler is None:
        raise instruction.unknown()
    return guarded(handler(instruction, machine), instruction, machine)


def guarded(step: Step, instruction: Instruction, machine: Machine) -> Step:
    """`step` for the lanes whose guard holds."""
    if instruction.guard is None:
        return step
    name, negated = instruction.guard
    condition = machine.predicate(name, instruction)

    def run(active: Active) -> None:
        chosen = active.where(condition, negated)
        if chosen is not None:
            step(chosen)

    return run


def lanewise(function: Callable[..., np.ndarray], out: np.ndarray, *sources: np.ndarray) -> Step:
    """out = function(*sources) in the active lanes. The result is cast to what `out` holds as NumPy assigns."""
    if isinstance(function, np.ufunc) and function.nout == 1:
        return _ufunc(function, out, *sources)

    def step(active: Active) -> None:
        alu = active.alu
        if alu is None:
            out[...] = function(*sources)
        else:
            out[alu] = function(*[source[alu] for source in sources])

    return step


def _ufunc(function: np.ufunc, out: np.ndarray, *sources: np.ndarray) -> Step:
    """The same without a temporary where all lanes are active."""
    if len(sources) == 2:
        a, b = sources

        def step(active: Active) -> None:
            alu = active.alu
            if alu is None:
                function(a, b, out=out)
            else:
                out[alu] = function(a[alu], b[alu])

        return step

    def step_any(active: Active) -> None:
        alu = active.alu
        if alu is None:
            function(*sources, out=out)
        else:
            out[alu] = function(*[source[alu] for source in sources])

    return step_any


def copy(out: np.ndarray, source: np.ndarray) -> Step:
    def step(active: Active) -> None:
        alu = active.alu
        if alu is None:
            out[...] = source
        else:
            out[alu] = source[alu]

    return step


def options(instruction: Instruction, *known: str) -> set[str]:
    """The parts of the instruction's name but the last, the type; a PtxError if one is not in `known`."""
    found = set(instruction.parts[:-1])
    if found - set(known):
        raise instruction.unknown(f"the interpreter does not know .{', .'.join(sorted(found - set(known)))}")
    return found


def kind_of(instruction: Instruction, *known: str) -> str:
    """The last part of the name, the type; a PtxError if it is not in `known`."""
    kind = instruction.parts[-1] if instruction.parts else ""
    if kind not in known:
        raise instruction.unknown()
    return kind


def count_operands(instruction: Instruction, *counts: int) -> None:
    if len(instruction.operands) not in counts:
        raise instruction.unknown(f"{' or '.join(map(str, counts))} operands are expected")
