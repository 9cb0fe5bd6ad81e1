"""Runs the threads of some blocks.

Every thread has a place in the text, the basic block it runs next. Those with the smallest place run, together, up to
the end of that block; so threads that took different ways meet again where the ways meet. Threads that wait at a
barrier, for other lanes of their warp or for an mbarrier stay out of this until what they wait for happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ptx_barrier import Barriers
from ptx_clocks import Clocks
from ptx_decode import Step, decode
from ptx_error import PtxError
from ptx_flow import Block, is_barrier, is_wait, is_warp_wide
from ptx_gates import Gate, group_gate, mbarrier_gate, warp_gate
from ptx_lanes import AT_BARRIER, AT_MBARRIER, AT_WARP, EXITED, PARKED, RUNS, Active, Lanes
from ptx_operands import Operand, Reg, Sym
from ptx_program import Instruction
from ptx_registers import Registers
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_launch import Launch

_VERBS = {AT_BARRIER: "wait", AT_WARP: "wait for the other lanes of their warp", AT_MBARRIER: "wait for the phase"}

End = Callable[[Active], "int | None"]
"""What ends a block: the next block of all active lanes, or None if they part or stop."""


class Machine:
    """The state of the blocks `lanes`. place: the block number that each lane runs next, PARKED if it cannot run.

    why: RUNS, EXITED or what a lane waits for; at: the number of the block where it waits.
    """

    def __init__(self, launch: Launch, lanes: Lanes) -> None:
        self.launch, self.lanes = launch, lanes
        self.registers = Registers(launch.entry, lanes)
        self.clocks = Clocks(lanes, fine=launch.facts.fine)
        self.place = np.where(lanes.exists, np.int32(0), PARKED).astype(np.int32)
        self.why = np.where(lanes.exists, RUNS, EXITED).astype(np.int8)
        self.at = np.zeros(lanes.n, np.int32)
        self.barriers = Barriers(self)
        self.shared = launch.shared_memory(self)
        self.local = launch.local_memory(self)
        self.mbarriers = launch.mbarriers(self)
        self.copies = launch.copies(self)
        self.written = {name: np.zeros(lanes.n, bool) for name in launch.facts.doubtful}
        self.progress = 0  # counts what may let a waiting lane go on
        self._retried = -1
        self.ticks = 0
        self.blocks = launch.facts.blocks
        self.counts = np.zeros(len(self.blocks), np.int64)
        self.gates: list[Gate | None] = [self._gate(block) for block in self.blocks]
        self.steps: list[list[Step] | None] = [None] * len(self.blocks)
        self.ends: list[End | None] = [None] * len(self.blocks)
        if not launch.facts.decoded:  # the first time all, so that what is unknown is found; then what is run
            for block in self.blocks:
                self._decode(block)
            launch.facts.decoded = True

    # What handlers use

    def read(self, operand: Operand, kind: str, instruction: Instruction) -> np.ndarray:
        """The values of an operand over all lanes, seen as `kind`. Only to be read."""
        if isinstance(operand, Sym):
            value = self.launch.address_of(operand.name, instruction)
            return np.full(self.lanes.n, value, np.uint64).astype(KINDS[kind].dtype)
        return self.registers.of(operand, kind, instruction)

    def write(self, operand: Operand, kind: str, instruction: Instruction) -> np.ndarray:
        """The array of a register seen as `kind`."""
        if not isinstance(operand, Reg):
            raise instruction.unknown("a register is expected")
        return self.registers.of(operand, kind, instruction)

    def predicate(self, name: str, instruction: Instruction) -> np.ndarray:
        return self.registers.of(Reg(name), "pred", instruction)

    def fail(self, instruction: Instruction, lane: int, what: str) -> PtxError:
        return self.launch.error(instruction, int(self.lanes.gid[lane]), what)

    # Running

    def run(self) -> None:
        """Raises PtxError for whatever the kernel does wrong."""
        place, limit = self.place, self.launch.most_blocks
        while True:
            number = int(place.min())
            if number == PARKED:
                if not self._release():
                    return
                continue
            active = Active(self.lanes, np.flatnonzero(place == number))
            place[active.index] = PARKED
            others = int(place.min())
            while True:
                gate = self.gates[number]
                if gate is not None:
                    active = gate(active)
                    if active is None:
                        break
                limit -= 1
                if limit < 0:
                    raise self.fail(
                        self.blocks[number].instructions[0], int(active.index[0]), "the kernel does not end"
                    )
                self.counts[number] += active.warps
                steps = self.steps[number]
                if steps is None:
                    steps = self._decode(self.blocks[number])
                for step in steps:
                    step(active)
                following = self.ends[number](active)
                if following is None:
                    break
                number = following
                if number >= others:
                    place[active.index] = number
                    break

    def park(self, lanes: np.ndarray, why: int, number: int) -> None:
        self.place[lanes] = PARKED
        self.why[lanes] = why
        self.at[lanes] = number

    def wake(self, lanes: np.ndarray, number: int | np.ndarray) -> None:
        """Lets lanes that waited run on from block `number`."""
        self.place[lanes] = number
        self.why[lanes] = RUNS
        self.progress += 1

    def _release(self) -> bool:
        """Lets something go on if nothing runs; False if all have exited. Raises PtxError if nothing ever will."""
        if (self.why == EXITED).all():
            return False
        waiting = np.flatnonzero(self.why == AT_WARP)
        if len(waiting) and self._retried != self.progress:  # the lanes they wait for may have exited
            self._retried = self.progress
            self.place[waiting] = self.at[waiting]
            self.why[waiting] = RUNS
            return True
        if self.mbarriers is not None and self.mbarriers.give_up():
            return True
        raise self._stuck()

    def _stuck(self) -> PtxError:
        waiting = np.flatnonzero(self.why > EXITED)
        block = self.lanes.block_of[waiting[0]]
        mine = np.flatnonzero((self.lanes.block_of == block) & self.lanes.exists)
        groups: dict[tuple[int, int], list[int]] = {}
        for lane in mine:
            key = (int(self.why[lane]), int(self.at[lane]) if self.why[lane] != EXITED else -1)
            groups.setdefault(key, []).append(int(self.lanes.thread[lane]))
        says = []
        for (why, number), threads in sorted(groups.items()):
            if why == EXITED:
                says.append(f"{spans(threads)} have exited")
            else:
                ins = self.blocks[number].last if why == AT_BARRIER else self.blocks[number].instructions[0]
                says.append(f"{spans(threads)} {_VERBS[why]} at `{ins.text}` (line {ins.line})")
        number = int(self.at[waiting[0]])
        found = self.blocks[number].last if self.why[waiting[0]] == AT_BARRIER else self.blocks[number].instructions[0]
        return self.fail(found, int(waiting[0]), "no thread of the block can go on: threads " + "; threads ".join(says))

    # Decoding

    def _gate(self, block: Block) -> Gate | None:
        first = block.instructions[0]
        if first.name == "wgmma":
            return group_gate(first, block.number, self)
        if is_warp_wide(first):
            return warp_gate(first, block.number, self)
        return mbarrier_gate(first, block.number, self) if is_wait(first) else None

    def _decode(self, block: Block) -> list[Step]:
        number = block.number
        self.steps[number] = [self._step(ins) for ins in block.instructions if not _is_end(ins)]
        self.ends[number] = self._end(block)
        return self.steps[number]

    def _step(self, instruction: Instruction) -> Step:
        step = decode(instruction, self)
        return self.launch.facts.watched(instruction, step, self)

    def _end(self, block: Block) -> End:
        last, following = block.last, block.number + 1
        if is_barrier(last):
            return self.barriers.end(last, block.number)
        if not _is_end(last):
            return lambda active: following
        check = self.launch.facts.watched(last, None, self)
        if last.name == "bra":
            return self._branch(block, check)
        if last.name == "brx":
            return self._table(block, check)
        return self._leave(block)

    def _branch(self, block: Block, check: Step | None) -> End:
        target, following = block.successors[0], block.number + 1
        if block.last.guard is None:
            return lambda active: target
        name, negated = block.last.guard
        condition, place = self.predicate(name, block.last), self.place

        def end(active: Active) -> int | None:
            if check is not None:
                check(active)
            taken = active.take(condition)
            if negated:
                taken = ~taken
            count = int(np.count_nonzero(taken))
            if count == active.count:
                return target
            if count == 0:
                return following
            place[active.index] = np.where(taken, target, following)
            return None

        return end

    def _table(self, block: Block, check: Step | None) -> End:
        last = block.last
        if last.guard:
            raise last.unknown("a guarded jump through a table")
        targets = np.array(block.successors, np.int32)
        chosen = self.read(last.operands[0], "u32", last)

        def end(active: Active) -> None:
            if check is not None:
                check(active)
            at = active.take(chosen)
            if (at >= len(targets)).any():
                lane = active.index[np.argmax(at >= len(targets))]
                raise self.fail(last, lane, f"entry {at.max()} of a table of {len(targets)} targets")
            self.place[active.index] = targets[at]

        return end

    def _leave(self, block: Block) -> End:
        last, following = block.last, block.number + 1
        condition = self.predicate(last.guard[0], last) if last.guard else None

        def end(active: Active) -> int | None:
            leaving = active if condition is None else active.where(condition, last.guard[1])
            if leaving is None:
                return following
            if last.name == "trap":
                raise self.fail(last, leaving.index[0], "the kernel stops itself")
            self.place[active.index] = PARKED if condition is None else following
            self.park(leaving.index, EXITED, block.number)
            self.progress += 1
            return None

        return end

    def executed(self) -> Counter[Instruction]:
        """How many warps ran each instruction, by its index."""
        counts: Counter[int] = Counter()
        for block, count in zip(self.blocks, self.counts, strict=True):
            if count:
                counts.update({ins.index: int(count) for ins in block.instructions})
        return counts


def _is_end(instruction: Instruction) -> bool:
    return instruction.name in ("bra", "brx", "ret", "exit", "trap") or is_barrier(instruction)


def spans(numbers: list[int]) -> str:
    """[0, 1, 2, 5] → "0–2, 5"."""
    parts, start = [], 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            first, last = numbers[start], numbers[i - 1]
            parts.append(str(first) if first == last else f"{first}–{last}")
            start = i
    return ", ".join(parts)
