"""cp.async: copies to shared memory that are complete only when the thread has waited for them, or an mbarrier tells.

The bytes move at once, but until then they count as under way: nobody may read or write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ptx_address import addresses, has_no_effect
from ptx_clocks import INSTRUCTION
from ptx_decode import Step, count_operands, handles
from ptx_lanes import Active
from ptx_operands import Imm, Mem, Operand, Reg
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine


@dataclass
class Flight:
    """Copies of one instruction that are under way. where: granules [lanes, each]; group: of each lane."""

    instruction: Instruction
    index: np.ndarray
    where: np.ndarray
    group: np.ndarray

    def split(self, chosen: np.ndarray) -> tuple[Flight, Flight]:
        """The chosen lanes' copies and the others'."""
        parts = (Flight(self.instruction, self.index[m], self.where[m], self.group[m]) for m in (chosen, ~chosen))
        return tuple(parts)


class Copies:
    """committed: how many groups each lane has closed; copies since then belong to the group of that number."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.committed = np.zeros(machine.lanes.n, np.int64)
        self.flights: list[Flight] = []

    def start(self, active: Active, where: np.ndarray, instruction: Instruction) -> None:
        self.flights.append(Flight(instruction, active.index, where, self.committed[active.index]))

    def take(self, active: Active, before: np.ndarray) -> list[Flight]:
        """Takes out the copies of these lanes that belong to groups less than `before`, over all lanes."""
        mine = np.zeros(self.machine.lanes.n, bool)
        mine[active.index] = True
        taken, left = [], []
        for flight in self.flights:
            done, rest = flight.split(mine[flight.index] & (flight.group < before[flight.index]))
            taken += [done] if len(done.index) else []
            left += [rest] if len(rest.index) else []
        self.flights = left
        return taken

    def wait(self, active: Active, before: np.ndarray) -> None:
        for flight in self.take(active, before):
            tags = self.machine.clocks.tag[flight.index] | (flight.instruction.index << INSTRUCTION)
            self.machine.shared.shadow.arrive(flight.where, tags[:, None])


@handles("cp")
def copy_async(instruction: Instruction, machine: Machine) -> Step:
    parts = instruction.parts
    if parts[:1] != ("async",):
        raise instruction.unknown()
    if parts[1:2] in (("ca",), ("cg",)):
        return _copy(instruction, machine)
    if parts == ("async", "commit_group"):
        return lambda active: machine.copies.committed.__setitem__(
            active.index, machine.copies.committed[active.index] + 1
        )
    if parts in (("async", "wait_group"), ("async", "wait_all")):
        return _wait(instruction, machine)
    if parts[1:3] == ("mbarrier", "arrive"):
        return _arrive_later(instruction, machine)
    if parts[1:3] == ("bulk", "prefetch"):
        return lambda active: None
    if parts[1] == "bulk" and len(parts) > 2 and parts[2].startswith("shared"):
        return _bulk(instruction, machine)
    raise instruction.unknown()


def _copy(instruction: Instruction, machine: Machine) -> Step:
    """cp.async.ca|cg.shared.global [to], [from], size{, bytes to read | do not read}: the rest is filled with zeros."""
    left = [part for part in instruction.parts[2:] if not has_no_effect(part)]
    operands = list(instruction.operands)
    if any(part.startswith("L2::cache_hint") for part in instruction.parts):
        operands.pop()
    if left not in (["shared", "global"], ["shared::cta", "global"]) or not isinstance(operands[2], Imm):
        raise instruction.unknown()
    size = operands[2].value
    if size not in ((16,) if instruction.parts[1] == "cg" else (4, 8, 16)) or len(operands) not in (3, 4):
        raise instruction.unknown()
    to, source = addresses(operands[0], instruction, machine), addresses(operands[1], instruction, machine)
    counts = _source_size(operands[3] if len(operands) == 4 else None, size, instruction, machine)

    def step(active: Active) -> None:
        address, values = source(active), np.zeros((active.count, size // 4), np.uint32)
        wanted = active.take(counts)
        if (wanted > size).any() or (wanted % 4).any():
            at = int(np.argmax((wanted > size) | (wanted % 4 != 0)))
            raise machine.fail(
                instruction,
                int(active.index[at]),
                f"the interpreter reads whole words of {size} bytes, not {wanted[at]}",
            )
        if (wanted == size).all():
            values[...] = _words(active, address, size)
        else:
            for count in np.unique(wanted[wanted > 0]):
                chosen = wanted == count
                lanes = active.among(chosen)
                for word in range(0, int(count), 4):
                    values[chosen, word // 4] = _words(lanes, address[chosen] + word, 4)[:, 0]
        where = machine.shared.copy(active, to(active), values, instruction)
        machine.copies.start(active, where, instruction)

    def _words(active: Active, address: np.ndarray, size: int) -> np.ndarray:
        found = machine.launch.memory.load(active, address, 4, size // 4, machine, instruction)
        return found if found.ndim > 1 else found[:, None]

    return step


def _source_size(operand: Operand | None, size: int, instruction: Instruction, machine: Machine) -> np.ndarray:
    """How many bytes each lane reads, over all lanes; of a predicate, which says not to, when the copy runs."""
    if operand is None:
        return np.full(machine.lanes.n, size, np.int64)
    if isinstance(operand, Reg) and machine.launch.entry.register_kind(operand.name) == "pred":
        raise instruction.unknown("the interpreter does not know the form with a predicate")
    return machine.read(operand, "u32", instruction)


def _wait(instruction: Instruction, machine: Machine) -> Step:
    """wait_group n: all but the newest n groups; wait_all: all copies, also of no group yet."""
    everything = instruction.parts[1] == "wait_all"
    count_operands(instruction, 0 if everything else 1)
    pending = 0 if everything else instruction.operands[0].value

    def step(active: Active) -> None:
        copies = machine.copies
        copies.wait(active, copies.committed + 1 if everything else copies.committed - pending)

    return step


def _arrive_later(instruction: Instruction, machine: Machine) -> Step:
    """cp.async.mbarrier.arrive{.noinc}: the mbarrier's phase ends after the thread's copies so far."""
    left = [part for part in instruction.parts[3:] if part not in ("noinc", "shared", "shared::cta")]
    if left != ["b64"]:
        raise instruction.unknown()
    place, counted = addresses(instruction.operands[0], instruction, machine), "noinc" in instruction.parts

    def step(active: Active) -> None:
        copies = machine.copies
        flights = copies.take(active, copies.committed + 1)
        machine.mbarriers.bind(active, place(active), flights, instruction, arrivals=int(counted))

    return step


def _bulk(instruction: Instruction, machine: Machine) -> Step:
    """cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [to], [from], size, [mbarrier]."""
    left = [part for part in instruction.parts[2:] if not part.startswith("L2::cache_hint")]
    if left[0] not in ("shared::cluster", "shared::cta") or left[1:] != ["global", "mbarrier::complete_tx::bytes"]:
        raise instruction.unknown()
    to, source, size, barrier = instruction.operands[:4]
    if not all(isinstance(operand, Mem) for operand in (to, source, barrier)):
        raise instruction.unknown()
    place_to, place_from, place_barrier = (addresses(o, instruction, machine) for o in (to, source, barrier))
    sizes = machine.read(size, "u32", instruction)

    def step(active: Active) -> None:
        starts, origins, counts = place_to(active), place_from(active), active.take(sizes).astype(np.int64)
        if (counts % 16).any() or (counts == 0).any():
            raise machine.fail(
                instruction, int(active.index[0]), f"a bulk copy takes a multiple of 16 bytes, not {counts}"
            )
        rows = np.repeat(np.arange(active.count), counts // 16)
        line = np.arange(len(rows)) - np.repeat(np.cumsum(counts // 16) - counts // 16, counts // 16)
        lanes = Active.repeated(active.lanes, active.index[rows])
        values = machine.launch.memory.load(lanes, origins[rows] + 16 * line, 4, 4, machine, instruction)
        where = machine.shared.copy(lanes, starts[rows] + 16 * line, values, instruction)
        flight = Flight(instruction, lanes.index, where, np.zeros(len(rows), np.int64))
        machine.mbarriers.bind(active, place_barrier(active), [flight], instruction, arrivals=0, transferred=counts)

    return step
