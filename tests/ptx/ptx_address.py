"""Addresses: which state space, and what the lanes' registers hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_lanes import Active
from ptx_operands import Mem, Operand, Reg
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

SPACES = {
    "param": "param",
    "param::entry": "param",
    "global": "global",
    "const": "const",
    "local": "local",
    "shared": "shared",
    "shared::cta": "shared",
    "shared::cluster": "shared",
}
_WITHOUT_EFFECT = {
    *("weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "mmio", "cta", "cluster", "gpu", "sys", "nc"),
    *("ca", "cg", "cs", "lu", "cv", "wb", "wt"),
}
Addresses = Callable[[Active], np.ndarray]


def has_no_effect(part: str) -> bool:
    """Whether a part of a name says only how memory is ordered or cached, which does not matter here."""
    return part in _WITHOUT_EFFECT or part.startswith(("L1::", "L2::", "level::"))


def space_of(parts: list[str]) -> str:
    """The state space among the parts of a name, which it takes out; generic if there is none."""
    for part in parts:
        if part in SPACES:
            parts.remove(part)
            return SPACES[part]
    return "generic"


def addresses(operand: Operand, instruction: Instruction, machine: Machine) -> Addresses:
    """A function to the int64 addresses of the active lanes."""
    if not isinstance(operand, Mem):
        raise instruction.unknown("an address is expected")
    base, offset = operand.base, operand.offset
    if base is None:
        return lambda active: np.full(active.count, offset, np.int64)
    if not isinstance(base, Reg):
        place = machine.launch.address_of(base.name, instruction) + offset
        return lambda active: np.full(active.count, place, np.int64)
    array = machine.registers.raw(base, instruction)
    if array.dtype == np.uint64:
        array = array.view(np.int64)
        if offset == 0:
            return lambda active: active.take(array)
        return lambda active: active.take(array) + offset
    return lambda active: active.take(array).astype(np.int64) + offset


class Spaces:
    """Loads and stores of a space, generic addresses too: those of lanes in several spaces are taken one by one."""

    def __init__(self, machine: Machine, instruction: Instruction, space: str) -> None:
        self.machine, self.instruction, self.space = machine, instruction, space
        self.windows = machine.launch.windows

    def each(self, active: Active, address: np.ndarray):
        """(space, lanes, their addresses in it, which of `active` they are or None for all)."""
        if self.space != "generic":
            yield self.space, active, address, None
            return
        shared, local = self.windows["shared"], self.windows["local"]
        which = np.where(address >= local, 2, np.where(address >= shared, 1, 0))
        for number, (space, start) in enumerate((("global", 0), ("shared", shared), ("local", local))):
            chosen = which == number
            if chosen.all():
                yield space, active, address - start, None
            elif chosen.any():
                yield space, active.among(chosen), address[chosen] - start, chosen

    def load(self, active: Active, address: np.ndarray, size: int, count: int, *, cached: bool = False) -> np.ndarray:
        """Unsigned integers of `size` bytes, [lanes] or, for vectors, [lanes, count]."""
        out = None
        for space, lanes, at, chosen in self.each(active, address):
            values = self._load(space, lanes, at, size, count, cached)
            if chosen is None:
                return values
            if out is None:
                out = np.zeros((active.count, *values.shape[1:]), values.dtype)
            out[chosen] = values
        return out

    def _load(self, space: str, active: Active, at: np.ndarray, size: int, count: int, cached: bool) -> np.ndarray:
        machine, instruction = self.machine, self.instruction
        if space == "shared":
            return machine.shared.load(active, at, size, count, instruction)
        if space == "local":
            return machine.local.load(active, at, size, count, instruction)
        return machine.launch.memory.load(active, at, size, count, machine, instruction, cached=cached)

    def store(self, active: Active, address: np.ndarray, values: np.ndarray) -> None:
        """values: unsigned integers [lanes] or [lanes, count]."""
        machine, instruction = self.machine, self.instruction
        for space, lanes, at, chosen in self.each(active, address):
            mine = values if chosen is None else values[chosen]
            if space == "shared":
                machine.shared.store(lanes, at, mine, instruction)
            elif space == "local":
                machine.local.store(lanes, at, mine, instruction)
            else:
                machine.launch.memory.store(lanes, at, mine, machine, instruction)
