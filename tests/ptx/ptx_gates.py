"""Where lanes wait before an instruction: for the other lanes of their warp, or for an mbarrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_lanes import AT_MBARRIER, AT_WARP, EXITED, RUNS, WARP, Active
from ptx_operands import Imm, Operand
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

Gate = Callable[[Active], "Active | None"]
"""Takes lanes that come to an instruction, gives those that run it now; None if all have to wait."""

_WHOLE = {"mma", "ldmatrix", "stmatrix", "movmatrix", "setmaxnreg"}
GROUP = 4 * WARP
ALL = 0xFFFFFFFF
ALL_BITS = np.uint32(ALL)


def member_mask(instruction: Instruction) -> Operand:
    """The operand that says which lanes take part; all of them for what is `.aligned` and has none."""
    if instruction.name in _WHOLE:
        return Imm(ALL)
    if instruction.name in ("bar", "barrier"):
        return instruction.operands[0]
    return instruction.operands[-1]


def warp_gate(instruction: Instruction, number: int, machine: Machine) -> Gate:
    """Lanes go on when all that their mask names are here, at this very instruction.

    Lanes that have exited are not waited for, but where all 32 are needed.
    """
    mask = member_mask(instruction)
    whole = isinstance(mask, Imm) and mask.value & ALL == ALL
    masks = machine.read(mask, "u32", instruction)
    lanes = machine.lanes
    own = np.uint32(1) << (np.arange(lanes.n) % WARP).astype(np.uint32)
    guard = machine.predicate(instruction.guard[0], instruction) if instruction.guard else None

    def gate(active: Active) -> Active | None:
        if guard is None and active.whole_warps and (whole or (active.take(masks) == ALL).all()):
            return active
        passing = np.zeros(0, np.int64)
        coming = active
        if guard is not None:
            coming = active.where(guard, instruction.guard[1])
            if coming is active and whole and active.whole_warps:
                return active
            passing = active.index if coming is None else np.setdiff1d(active.index, coming.index)
        ready = np.zeros(0, np.int64)
        if coming is not None:
            waiting = np.flatnonzero((machine.why == AT_WARP) & (machine.at == number))
            together = Active(lanes, np.union1d(coming.index, waiting))
            index = together.index
            wanted = masks[index]
            if ((wanted & own[index]) == 0).any():
                lane = index[np.argmax((wanted & own[index]) == 0)]
                raise machine.fail(instruction, lane, f"the mask {masks[lane]:#010x} leaves the thread itself out")
            missing = wanted & ~together.bits[index // WARP]
            if instruction.name not in _WHOLE and missing.any():
                missing &= ~Active(lanes, gone).bits[index // WARP] if len(gone := _exited(machine)) else ALL_BITS
            complete = missing == 0
            ready = index[complete]
            machine.why[ready] = RUNS
            machine.park(index[~complete], AT_WARP, number)
        going = np.union1d(ready, passing)
        return Active(lanes, going) if len(going) else None

    return gate


def group_gate(instruction: Instruction, number: int, machine: Machine) -> Gate:
    """Lanes go on when all of their warpgroup, 128 threads, are here at this very instruction."""
    if instruction.guard:
        raise instruction.unknown("a guarded instruction of a warpgroup")
    lanes = machine.lanes

    def gate(active: Active) -> Active | None:
        index = active.index
        if (
            not len(index) % GROUP
            and not (index[::GROUP] % GROUP).any()
            and (np.diff(index.reshape(-1, GROUP)) == 1).all()
        ):
            return active
        waiting = np.flatnonzero((machine.why == AT_WARP) & (machine.at == number))
        index = np.union1d(index, waiting)
        complete = np.bincount(index // GROUP)[index // GROUP] == GROUP
        machine.why[index[complete]] = RUNS
        machine.park(index[~complete], AT_WARP, number)
        return Active(lanes, index[complete]) if complete.any() else None

    return gate


def _exited(machine: Machine) -> np.ndarray:
    return np.flatnonzero(machine.why == EXITED)


def mbarrier_gate(instruction: Instruction, number: int, machine: Machine) -> Gate:
    """Lanes go on when the phase they wait for is complete, or when nothing else can happen."""
    is_complete = machine.mbarriers.test(instruction)
    guard = machine.predicate(instruction.guard[0], instruction) if instruction.guard else None

    def gate(active: Active) -> Active | None:
        coming = active if guard is None else active.where(guard, instruction.guard[1])
        if coming is None:
            return active
        complete = is_complete(coming) | machine.mbarriers.impatient[coming.index]
        if complete.all():
            return active
        machine.park(coming.index[~complete], AT_MBARRIER, number)
        going = np.setdiff1d(active.index, coming.index[~complete])
        return Active(machine.lanes, going) if len(going) else None

    return gate
