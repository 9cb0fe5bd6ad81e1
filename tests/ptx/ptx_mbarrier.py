"""mbarrier: barriers in shared memory that count arrivals of threads and bytes of copies, phase after phase.

What they hold in memory is not modelled: their bytes are only marked, so that a use before the initialisation, or in no
order with it, is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ptx_address import Addresses, addresses
from ptx_clocks import AGENT, AGENT_CLOCK, CLOCK, INSTRUCTION
from ptx_decode import Step, handles
from ptx_lanes import AT_MBARRIER, Active
from ptx_operands import Imm, Mem, Operand, Sink
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_async import Flight
    from ptx_machine import Machine

_QUALIFIERS = {"shared", "shared::cta", "b64", "release", "acquire", "relaxed", "cta", "cluster"}


@dataclass
class Mbarrier:
    """One mbarrier. expected: arrivals of a phase; pending, bytes: what the phase still waits for; phase: how many are
    complete. gathered, published: what those who arrived in this phase, and up to the last, know (`Clocks`)."""

    expected: int
    pending: int
    gathered: np.ndarray
    published: np.ndarray
    bytes: int = 0
    phase: int = 0
    flights: list[Flight] = field(default_factory=list)


class Mbarriers:
    """Those of all blocks, by their positions in shared memory."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.at: dict[int, Mbarrier] = {}
        self.agent = np.zeros(machine.lanes.blocks, np.int64)
        self.impatient = np.zeros(machine.lanes.n, bool)
        self._given_up = -1

    def groups(
        self, active: Active, address: np.ndarray, instruction: Instruction
    ) -> Iterator[tuple[Mbarrier, np.ndarray]]:
        """The mbarriers at these addresses and which of the active lanes mean each."""
        positions = address + active.take(self.machine.shared.offset)
        for position in np.unique(positions):
            rows = np.flatnonzero(positions == position)
            if int(position) not in self.at:
                place = self.machine.shared.describe(int(position))
                raise self.machine.fail(instruction, int(active.index[rows[0]]), f"there is no mbarrier at {place}")
            yield self.at[int(position)], rows

    def init(self, active: Active, address: np.ndarray, counts: np.ndarray, instruction: Instruction) -> None:
        shared, width = self.machine.shared, self.machine.lanes.padded + 1
        shared.store(active, address, np.zeros(active.count, np.uint64), instruction)
        for position, count in zip(address + active.take(shared.offset), counts, strict=True):
            if not 1 <= count < 1 << 20:
                raise self.machine.fail(instruction, int(active.index[0]), f"an mbarrier of {count} arrivals")
            empty = np.zeros(width, np.int32)
            self.at[int(position)] = Mbarrier(int(count), int(count), empty, empty)

    def invalidate(self, active: Active, address: np.ndarray, instruction: Instruction) -> None:
        for position in address + active.take(self.machine.shared.offset):
            if self.at.pop(int(position), None) is None:
                place = self.machine.shared.describe(int(position))
                raise self.machine.fail(instruction, int(active.index[0]), f"there is no mbarrier at {place}")
        self.machine.shared.store(active, address, np.zeros(active.count, np.uint64), instruction)

    def arrive(
        self,
        active: Active,
        address: np.ndarray,
        counts: np.ndarray,
        transfers: np.ndarray | None,
        instruction: Instruction,
        *,
        release: bool = True,
        drop: bool = False,
        completes: bool = True,
    ) -> np.ndarray:
        """Lanes arrive `counts` times and expect `transfers` bytes first. Gives the phase each arrived in."""
        self.machine.shared.update(active, address, 8, instruction)
        phases = np.zeros(active.count, np.int64)
        for barrier, rows in self.groups(active, address, instruction):
            at_once = (
                [rows] if int(counts[rows].sum()) <= barrier.pending else [rows[i : i + 1] for i in range(len(rows))]
            )
            for some in at_once:
                phases[some] = barrier.phase
                lanes = active.index[some]
                if release:
                    barrier.gathered = np.maximum(barrier.gathered, self.machine.clocks.release(lanes))
                if transfers is not None:
                    barrier.bytes += int(transfers[some].sum())
                count = int(counts[some].sum())
                barrier.pending -= count
                if drop:
                    barrier.expected -= count
                self._check_pending(barrier, int(lanes[0]), instruction)
                self._complete(barrier, int(lanes[0]), instruction, allowed=completes)
        return phases

    def expect(self, active: Active, address: np.ndarray, transfers: np.ndarray, instruction: Instruction) -> None:
        self.machine.shared.update(active, address, 8, instruction)
        for barrier, rows in self.groups(active, address, instruction):
            barrier.bytes += int(transfers[rows].sum())
            self._complete(barrier, int(active.index[rows[0]]), instruction)

    def bind(
        self,
        active: Active,
        address: np.ndarray,
        flights: list[Flight],
        instruction: Instruction,
        *,
        arrivals: int,
        transferred: np.ndarray | None = None,
    ) -> None:
        """Copies end with the phase of the mbarrier that their lanes name; it counts their bytes or arrivals."""
        self.machine.shared.update(active, address, 8, instruction)
        for barrier, rows in self.groups(active, address, instruction):
            lanes = active.index[rows]
            for flight in flights:
                mine, _ = flight.split(np.isin(flight.index, lanes))
                barrier.flights.append(mine)
            barrier.pending -= arrivals * len(rows)
            if transferred is not None:
                barrier.bytes -= int(transferred[rows].sum())
            self._check_pending(barrier, int(lanes[0]), instruction)
            self._complete(barrier, int(lanes[0]), instruction)

    def _check_pending(self, barrier: Mbarrier, lane: int, instruction: Instruction) -> None:
        if barrier.pending < 0:
            what = f"{-barrier.pending} arrivals more than the mbarrier's phase waits for"
            raise self.machine.fail(instruction, lane, what)

    def _complete(self, barrier: Mbarrier, lane: int, instruction: Instruction, *, allowed: bool = True) -> None:
        """Ends the phase if nothing is waited for any more."""
        if barrier.pending or barrier.bytes:
            return
        machine = self.machine
        if not allowed:
            raise machine.fail(instruction, lane, "completes the phase, which .noComplete must not")
        block = machine.lanes.block_of[lane]
        clock = int(self.agent[block])
        self.agent[block] += 1
        for flight in barrier.flights:
            tag = (AGENT_CLOCK + clock) << CLOCK | flight.instruction.index << INSTRUCTION | AGENT
            machine.shared.shadow.arrive(flight.where, tag)
        barrier.flights = []
        barrier.gathered = barrier.gathered.copy()
        barrier.gathered[-1] = clock + 1
        barrier.published = barrier.gathered
        barrier.phase += 1
        barrier.pending = barrier.expected
        lanes = machine.lanes
        waiting = np.flatnonzero((machine.why == AT_MBARRIER) & (lanes.block_of == block))
        machine.wake(waiting, machine.at[waiting])

    # Waiting

    def test(self, instruction: Instruction) -> Callable[[Active], np.ndarray]:
        """Whether the phase that each active lane waits for is complete."""
        machine = self.machine
        memory, operand = instruction.operands[1:3]
        place = _place(memory, instruction, machine)
        parity = "parity" in instruction.parts
        wanted = machine.read(operand, "u32" if parity else "b64", instruction)

        def is_complete(active: Active) -> np.ndarray:
            found = np.zeros(active.count, bool)
            mine = active.take(wanted)
            for barrier, rows in self.groups(active, place(active), instruction):
                if parity:
                    found[rows] = (barrier.phase & 1) != (mine[rows] & 1)
                else:
                    found[rows] = barrier.phase > mine[rows].astype(np.int64)
            return found

        return is_complete

    def learn(self, active: Active, address: np.ndarray, instruction: Instruction) -> None:
        """What came before the last phase's arrivals is over for these lanes."""
        for barrier, rows in self.groups(active, address, instruction):
            self.machine.clocks.acquire(active.index[rows], barrier.published)

    def give_up(self) -> bool:
        """Lets waits that can only fail return once, if anything has happened since the last time."""
        machine = self.machine
        waiting = np.flatnonzero(machine.why == AT_MBARRIER)
        if not len(waiting) or self._given_up == machine.progress:
            return False
        machine.wake(waiting, machine.at[waiting])
        self.impatient[waiting] = True
        self._given_up = machine.progress
        return True


@handles("mbarrier")
def mbarrier(instruction: Instruction, machine: Machine) -> Step:
    action, *parts = instruction.parts
    rest = set(parts) - _QUALIFIERS
    operands = list(instruction.operands)
    if action in ("test_wait", "try_wait") and rest <= {"parity"}:
        return _wait(instruction, machine)
    if action == "pending_count":
        raise instruction.unknown()
    out = None if isinstance(operands[0], Mem) else operands.pop(0)
    place = _place(operands.pop(0), instruction, machine)
    number = machine.read(operands[0] if operands else Imm(1), "u32", instruction)
    all_barriers = machine.mbarriers
    if action == "init" and not rest:
        return lambda active: all_barriers.init(active, place(active), active.take(number), instruction)
    if action == "inval" and not rest:
        return lambda active: all_barriers.invalidate(active, place(active), instruction)
    if action == "expect_tx" and not rest:
        return lambda active: all_barriers.expect(active, place(active), active.take(number), instruction)
    if action not in ("arrive", "arrive_drop") or rest - {"expect_tx", "noComplete"}:
        raise instruction.unknown()
    written = None if out is None or isinstance(out, Sink) else machine.write(out, "b64", instruction)
    expects, once = "expect_tx" in rest, machine.read(Imm(1), "u32", instruction)

    def step(active: Active) -> None:
        phases = all_barriers.arrive(
            active,
            place(active),
            active.take(once if expects else number).astype(np.int64),
            active.take(number).astype(np.int64) if expects else None,
            instruction,
            release="relaxed" not in parts,
            drop=action == "arrive_drop",
            completes="noComplete" not in rest,
        )
        if written is not None:
            written[active.index] = phases

    return step


def _place(operand: Operand, instruction: Instruction, machine: Machine) -> Addresses:
    """Addresses in shared memory, also of generic ones."""
    place = addresses(operand, instruction, machine)
    if any(part.startswith("shared") for part in instruction.parts):
        return place
    window = machine.launch.windows["shared"]
    return lambda active: place(active) - window


def _wait(instruction: Instruction, machine: Machine) -> Step:
    """The predicate whether the phase is complete; only if it is, what came before it is seen."""
    out, memory = instruction.operands[:2]
    written = machine.write(out, "pred", instruction)
    place, is_complete = _place(memory, instruction, machine), machine.mbarriers.test(instruction)

    def step(active: Active) -> None:
        address = place(active)
        machine.shared.update(active, address, 8, instruction)
        complete = is_complete(active)
        written[active.index] = complete
        machine.mbarriers.impatient[active.index] = False
        done = active.among(complete) if complete.any() else None
        if done is not None and "relaxed" not in instruction.parts:
            machine.mbarriers.learn(done, address[complete], instruction)

    return step
