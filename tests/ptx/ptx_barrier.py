"""Barriers of a block: bar and barrier with ids, with counts of threads, and with a vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_flow import results
from ptx_lanes import AT_BARRIER, PARKED, WARP, Active
from ptx_operands import Imm, Not, Operand
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import End, Machine

IDS = 16
_FLAGS = {"sync", "arrive", "red", "cta", "aligned", "popc", "and", "or", "u32", "pred"}


def is_partial(instruction: Instruction) -> bool:
    """Whether not all threads of the block need to come: there is a count of threads, or only an arrival."""
    count = len(instruction.operands) - (2 if "red" in instruction.parts else 0)
    return "arrive" in instruction.parts or count > 1


class Barriers:
    """The 16 barriers of each block. arrived, expected: threads [block, id]; expected 0: nobody has come yet."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        blocks = machine.lanes.blocks
        self.arrived = np.zeros((blocks, IDS), np.int64)
        self.expected = np.zeros((blocks, IDS), np.int64)
        self.barrier = np.zeros(machine.lanes.n, np.int8)
        self.clock_rows: dict[tuple[int, int], list[np.ndarray]] = {}

    def end(self, instruction: Instruction, number: int) -> End:
        """The function that ends a basic block with this barrier."""
        if set(instruction.parts) - _FLAGS:
            raise instruction.unknown()
        machine, following, parts = self.machine, number + 1, set(instruction.parts)
        operands = list(instruction.operands)
        out = vote = None
        if "red" in parts:
            out, vote = operands.pop(0), operands.pop()
        identity, size = operands[0], operands[1] if len(operands) > 1 else None
        everybody = isinstance(identity, Imm) and size is None and parts <= {"sync", "cta", "aligned"}
        guard = machine.predicate(instruction.guard[0], instruction) if instruction.guard else None
        aligned = instruction.name == "bar" or "aligned" in parts
        finish = self._vote(instruction, out, vote, parts) if vote is not None else None
        watched = machine.launch.facts.watched(instruction, None, machine)

        def end(active: Active) -> int | None:
            if watched is not None:
                watched(active)
            if guard is not None:
                coming = active.where(guard, instruction.guard[1])
                if coming is None:
                    return following
                if coming is not active:
                    machine.place[active.index] = following
                    machine.place[coming.index] = PARKED
                    active = coming
                    self._arrive(instruction, number, active, identity, size, parts, aligned, finish)
                    return None
            if everybody and active.whole_blocks:
                machine.clocks.whole_blocks(active)
                machine.shared.barrier(active)
                machine.progress += 1
                return following
            self._arrive(instruction, number, active, identity, size, parts, aligned, finish)
            return None

        return end

    def _numbers(self, operand: Operand, active: Active, instruction: Instruction) -> np.ndarray:
        return active.take(self.machine.read(operand, "u32", instruction)).astype(np.int64)

    def _arrive(self, instruction, number, active, identity, size, parts, aligned, finish) -> None:
        machine, lanes = self.machine, self.machine.lanes
        ids = self._numbers(identity, active, instruction)
        sizes = np.full(active.count, lanes.threads)
        if size is not None:
            sizes = self._numbers(size, active, instruction)
        if (ids >= IDS).any():
            raise machine.fail(instruction, active.index[np.argmax(ids >= IDS)], f"there are {IDS} barriers")
        if size is not None and ((sizes % WARP).any() or (sizes > lanes.padded).any() or (sizes == 0).any()):
            raise machine.fail(
                instruction, active.index[0], f"a barrier counts whole warps of the block, not {sizes[0]} threads"
            )
        sizes = np.where(sizes == lanes.padded, lanes.threads, sizes)  # the last warp may have fewer threads
        blocks = lanes.block_of[active.index]
        known = self.expected[blocks, ids]
        if ((known != 0) & (known != sizes)).any():
            at = int(np.argmax((known != 0) & (known != sizes)))
            raise machine.fail(
                instruction, active.index[at], f"others came to the barrier for {known[at]} threads, not {sizes[at]}"
            )
        self.expected[blocks, ids] = sizes
        np.add.at(self.arrived, (blocks, ids), 1)
        self.barrier[active.index] = ids
        if "arrive" in parts:
            machine.place[active.index] = number + 1
            for block, barrier in {(int(b), int(i)) for b, i in zip(blocks, ids, strict=True)}:
                mine = active.index[(blocks == block) & (ids == barrier)]
                self.clock_rows.setdefault((block, barrier), []).append(machine.clocks.release(mine))
        else:
            machine.park(active.index, AT_BARRIER, number)
        for block, barrier in sorted({(int(b), int(i)) for b, i in zip(blocks, ids, strict=True)}):
            self._complete(instruction, block, barrier, aligned, finish)

    def _complete(self, instruction: Instruction, block: int, barrier: int, aligned: bool, finish) -> None:
        """Lets the threads of a block go on if enough have come."""
        machine, lanes = self.machine, self.machine.lanes
        arrived, expected = self.arrived[block, barrier], self.expected[block, barrier]
        if arrived < expected:
            return
        first = block * lanes.padded
        mine = slice(first, first + lanes.padded)
        waiting = first + np.flatnonzero((machine.why[mine] == AT_BARRIER) & (self.barrier[mine] == barrier))
        if arrived > expected:
            raise machine.fail(instruction, waiting[0], f"{arrived} threads came to a barrier for {expected}")
        if aligned:
            self._check_warps(instruction, waiting)
        self.arrived[block, barrier] = self.expected[block, barrier] = 0
        if finish is not None:
            finish(waiting)
        active = Active(lanes, waiting)
        if len(waiting) == lanes.threads:
            machine.clocks.whole_blocks(active)
            machine.shared.barrier(active)
        else:
            machine.clocks.meet(waiting)
            for row in self.clock_rows.pop((block, barrier), ()):
                machine.clocks.acquire(waiting, row)
        machine.wake(waiting, machine.at[waiting] + 1)

    def _check_warps(self, instruction: Instruction, waiting: np.ndarray) -> None:
        """All threads of a warp must stand at the same instruction."""
        machine, lanes = self.machine, self.machine.lanes
        for warp in np.unique(waiting // WARP):
            mine = waiting[waiting // WARP == warp]
            places = np.unique(machine.at[mine])
            all_of_it = int(lanes.exists[warp * WARP : warp * WARP + WARP].sum())
            if len(places) > 1 or len(mine) < all_of_it:
                texts = " and ".join(f"line {machine.blocks[place].last.line}" for place in places)
                raise machine.fail(
                    instruction,
                    mine[0],
                    f"all {all_of_it} threads of a warp must be at the same barrier, {len(mine)} are, at {texts}",
                )

    def _vote(self, instruction: Instruction, out: Operand, vote: Operand, parts: set[str]):
        """What bar.red writes when the threads go on."""
        machine = self.machine
        count = "popc" in parts
        negated = isinstance(vote, Not)
        votes = machine.predicate((vote.of if negated else vote).name, instruction)
        written = machine.write(out, "u32" if count else "pred", instruction)
        assert results(instruction)

        def finish(waiting: np.ndarray) -> None:
            mine = votes[waiting] ^ negated
            written[waiting] = mine.sum() if count else mine.all() if "and" in parts else mine.any()

        return finish
