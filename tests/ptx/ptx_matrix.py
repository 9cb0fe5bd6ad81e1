"""ldmatrix, stmatrix and movmatrix: 8×8 matrices of 16-bit numbers, spread over a warp.

In registers lane 4·r + c holds the numbers (r, 2c) and (r, 2c + 1). In memory lane 8·m + r has the address of row r of
matrix m.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_address import Spaces, addresses, space_of
from ptx_decode import Step, handles
from ptx_lanes import WARP, Active
from ptx_operands import Operand, Vec
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

_COUNTS = {"x1": 1, "x2": 2, "x4": 4}


def _parts(instruction: Instruction) -> tuple[int, bool, str]:
    """How many matrices, whether transposed, and the state space."""
    parts = list(instruction.parts)
    space = space_of(parts)
    if parts[:3] != ["sync", "aligned", "m8n8"] or parts[-1] != "b16" or space not in ("shared", "generic"):
        raise instruction.unknown()
    rest = parts[3:-1]
    transposed = "trans" in rest
    counts = [part for part in rest if part in _COUNTS]
    if len(counts) != 1 or len(rest) != 1 + transposed:
        raise instruction.unknown()
    return _COUNTS[counts[0]], transposed, space


def _registers(operand: Operand, count: int, instruction: Instruction, machine: Machine) -> list[np.ndarray]:
    items = operand.items if isinstance(operand, Vec) else (operand,)
    if len(items) != count:
        raise instruction.unknown(f"{count} registers are expected")
    return [machine.read(item, "b32", instruction) for item in items]


def transpose(matrices: np.ndarray) -> np.ndarray:
    """uint32 [.., 32], as lanes hold 8×8 matrices, of the transposed matrices."""
    halves = np.ascontiguousarray(matrices).view(np.uint16).reshape(*matrices.shape[:-1], 8, 8)
    return np.ascontiguousarray(halves.swapaxes(-1, -2)).view(np.uint32).reshape(matrices.shape)


def _addressing(active: Active, count: int) -> Active:
    """The lanes that have addresses."""
    return active if count == 4 else active.among(active.index % WARP < 8 * count)


@handles("ldmatrix")
def load_matrix(instruction: Instruction, machine: Machine) -> Step:
    count, transposed, space = _parts(instruction)
    out, memory = instruction.operands
    written = _registers(out, count, instruction, machine)
    place, spaces = addresses(memory, instruction, machine), Spaces(machine, instruction, space)

    def step(active: Active) -> None:
        lanes = _addressing(active, count)
        rows = spaces.load(lanes, place(lanes), 4, 4)
        matrices = rows.reshape(-1, count, WARP)
        if transposed:
            matrices = transpose(matrices)
        for i, array in enumerate(written):
            array[active.index] = matrices[:, i].reshape(-1)

    return step


@handles("stmatrix")
def store_matrix(instruction: Instruction, machine: Machine) -> Step:
    count, transposed, space = _parts(instruction)
    memory, value = instruction.operands
    sources = _registers(value, count, instruction, machine)
    place, spaces = addresses(memory, instruction, machine), Spaces(machine, instruction, space)

    def step(active: Active) -> None:
        lanes = _addressing(active, count)
        matrices = np.stack([active.take(source).reshape(-1, WARP) for source in sources], axis=1)
        if transposed:
            matrices = transpose(matrices)
        spaces.store(lanes, place(lanes), np.ascontiguousarray(matrices).reshape(-1, 4))

    return step


@handles("movmatrix")
def move_matrix(instruction: Instruction, machine: Machine) -> Step:
    if instruction.parts != ("sync", "aligned", "m8n8", "trans", "b16"):
        raise instruction.unknown()
    out, source = (machine.read(operand, "b32", instruction) for operand in instruction.operands)

    def step(active: Active) -> None:
        out[active.index] = transpose(active.take(source).reshape(-1, WARP)).reshape(-1)

    return step
