"""What the text of a kernel says, found once for all its launches."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from ptx_address import SPACES
from ptx_barrier import is_partial
from ptx_decode import Step
from ptx_flow import arguments, blocks_of, doubtful_registers, is_barrier, results, stored_params, symbols_in
from ptx_lanes import Active
from ptx_program import Entry, Instruction, Module
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine


_SHARED = {name for name, space in SPACES.items() if space == "shared"}


class Facts:
    """Of one kernel. blocks: its basic blocks; doubtful: registers that may be read before they are written; stored:
    parameters whose arrays it may write, None: any; fine: whether threads are ordered by more than barriers of the
    whole block; *_granule: the narrowest access in bytes; atomic: of each instruction whether it is.
    """

    def __init__(self, module: Module, entry: Entry) -> None:
        self.entry = entry
        self.blocks = blocks_of(entry)
        self.doubtful = doubtful_registers(entry, self.blocks)
        self.decoded = False
        self.stored = stored_params(entry)
        code = entry.instructions
        self.uses_mbarriers = any(ins.name == "mbarrier" or "mbarrier" in ".".join(ins.parts) for ins in code)
        self.uses_wgmma = any(ins.name == "wgmma" for ins in code)
        self.fine = self.uses_mbarriers or any(
            (is_barrier(ins) and is_partial(ins)) or (ins.name in ("bar", "barrier") and "warp" in ins.parts)
            for ins in code
        )
        named = {name for ins in code for operand in ins.operands for name in symbols_in(operand)}
        of_module = [array for array in module.arrays.values() if array.name in named]
        self.shared = [array for array in (*of_module, *entry.arrays.values()) if array.space == "shared"]
        self.local = [array for array in entry.arrays.values() if array.space == "local"]
        self.globals = [array for array in of_module if array.space in ("global", "const")]
        self.atomic = np.array([_is_atomic(ins) for ins in code])
        self.params = {param.name: param for param in entry.params}
        self.shared_granule = min((_width(ins, _SHARED) for ins in code), default=4)
        self.global_granule = min((_width(ins, {"global"}) for ins in code), default=4)

    def watched(self, instruction: Instruction, step: Step | None, machine: Machine) -> Step | None:
        """`step` with a look at registers that may not have been written; None if there is nothing to do."""
        if not self.doubtful:
            return step
        guard = {instruction.guard[0]} if instruction.guard else set()
        read = [name for name in dict.fromkeys(arguments(instruction)) if name in self.doubtful]
        made = [name for name in results(instruction) if name in self.doubtful]
        if not read and not made:
            return step
        condition = machine.predicate(instruction.guard[0], instruction) if guard else None

        def check(active: Active, name: str) -> None:
            known = active.take(machine.written[name])
            if not known.all():
                lane = int(active.index[np.argmin(known)])
                raise machine.fail(instruction, lane, f"reads the register {name}, which the thread has not written")

        def run(active: Active) -> None:
            for name in read:
                if name in guard:
                    check(active, name)
            chosen = active if condition is None else active.where(condition, instruction.guard[1])
            if chosen is not None:
                for name in read:
                    check(chosen, name)
            if step is not None:
                step(active)
            if chosen is not None:
                for name in made:
                    machine.written[name][chosen.index] = True

        return run


def _is_atomic(instruction: Instruction) -> bool:
    """Whether it may meet others of its kind at the same bytes."""
    if instruction.name == "mbarrier":
        return instruction.parts[0] not in ("init", "inval")
    return instruction.name in ("atom", "red") or (
        instruction.name == "cp" and "mbarrier" in ".".join(instruction.parts)
    )


def _width(instruction: Instruction, spaces: set[str]) -> int:
    """Bytes of the narrowest element that an instruction may touch in these spaces; 16 if none."""
    parts = set(instruction.parts)
    if instruction.name in ("ldmatrix", "stmatrix", "cp", "mbarrier"):
        return 4 if instruction.name != "mbarrier" else 8
    if instruction.name not in ("ld", "st", "atom", "red") or parts & {"param", "const"}:
        return 16
    named = parts & (_SHARED | {"local", "global"})
    kind = KINDS.get(instruction.parts[-1])
    elsewhere = bool(named) and not named & spaces
    return 16 if elsewhere or kind is None else kind.size


@lru_cache(maxsize=64)
def facts_of(module: Module, entry: Entry) -> Facts:
    return Facts(module, entry)
