"""atom and red: lanes change memory one after the other, in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_address import SPACES, Spaces, addresses, has_no_effect, space_of
from ptx_decode import Step, handles
from ptx_half import PACKED_OR_HALF, from_float, halves, to_float, words
from ptx_lanes import Active
from ptx_operands import Mem, Sink
from ptx_program import Instruction
from ptx_types import KINDS, RAW

if TYPE_CHECKING:
    from ptx_machine import Machine

Change = Callable[..., np.ndarray]
_OPERATIONS = ("add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas")


def _change(operation: str, kind: str) -> Change:
    """(old values, operands) → new values, of the type's dtype; packed halves as words."""
    if kind in PACKED_OR_HALF:
        base = kind.removesuffix("x2")
        functions = {"add": np.add, "min": np.fmin, "max": np.fmax}
        function = functions[operation]

        def on_halves(old: np.ndarray, value: np.ndarray) -> np.ndarray:
            if not kind.endswith("x2"):
                a, b = (to_float(x.view(np.uint16), base) for x in (old, value))
                return from_float(function(a, b), base).view(old.dtype)
            a, b = (to_float(halves(x), base) for x in (old, value))
            return words(from_float(function(a, b), base))

        return on_halves
    return {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
        "inc": lambda old, limit: np.where(old >= limit, old.dtype.type(0), old + old.dtype.type(1)),
        "dec": lambda old, limit: np.where((old == 0) | (old > limit), limit, old - old.dtype.type(1)),
        "exch": lambda old, value: value,
        "cas": lambda old, wanted, value: np.where(old == wanted, value, old),
    }[operation]


@handles("atom", "red")
def atomic(instruction: Instruction, machine: Machine) -> Step:
    parts = list(instruction.parts)
    kind = parts.pop()
    space = space_of(parts)
    operation = next((part for part in parts if part in _OPERATIONS), "")
    left = [part for part in parts if part != operation and part != "noftz" and not has_no_effect(part)]
    if left or kind not in KINDS or not operation or space not in ("generic", *SPACES.values()):
        raise instruction.unknown()
    operands = list(instruction.operands)
    out = None if isinstance(operands[0], Mem) else operands.pop(0)
    storage = f"b{8 * KINDS[kind].size}" if kind in PACKED_OR_HALF else kind
    place = addresses(operands.pop(0), instruction, machine)
    sources = [machine.read(operand, storage, instruction) for operand in operands[: 2 if operation == "cas" else 1]]
    written = None if out is None or isinstance(out, Sink) else machine.write(out, storage, instruction)
    change, size = _change(operation, kind), KINDS[kind].size
    spaces = Spaces(machine, instruction, space)

    def apply(memory: np.ndarray, at: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
        """Changes memory lane by lane, all lanes at different places at once; gives what each found."""
        memory = memory.view(KINDS[storage].dtype)
        old = np.empty(len(at), memory.dtype)
        order = np.argsort(at, kind="stable")
        ordered = at[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        turn = np.arange(len(at)) - np.repeat(starts, np.diff(np.r_[starts, len(at)]))
        for number in range(int(turn.max()) + 1):
            lanes = order[turn == number]
            found = memory[at[lanes]]
            old[lanes] = found
            memory[at[lanes]] = change(found, *[value[lanes] for value in values])
        return old

    def step(active: Active) -> None:
        values = [active.take(source) for source in sources]
        address = place(active)
        result = np.empty(active.count, RAW[size])
        for where, lanes, at, chosen in spaces.each(active, address):
            mine = values if chosen is None else [value[chosen] for value in values]
            if where == "shared":
                memory, cells = machine.shared.update(lanes, at, size, instruction)
                found = apply(memory, cells, mine)
            elif where == "global":
                found = _update_global(lanes, at, mine)
            else:
                raise machine.fail(instruction, int(active.index[0]), "an atomic operation on local memory")
            result[slice(None) if chosen is None else chosen] = found.view(RAW[size])
        if written is not None:
            written[active.index] = result.view(written.dtype)

    def _update_global(lanes: Active, at: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
        found = np.empty(lanes.count, KINDS[storage].dtype)
        blocks = lanes.take(machine.lanes.gid) // machine.lanes.padded
        machine.launch.order.touch(blocks, at, publish=True, learn=instruction.name == "atom")
        for memory, cells, chosen in machine.launch.memory.update(lanes, at, size, machine, instruction):
            found[chosen] = apply(memory, cells, [value[chosen] for value in values])
        return found

    return step
