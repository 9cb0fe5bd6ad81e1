"""Who wrote and read the bytes of a global array during a launch.

Threads of different blocks are in no order, but for what atomic operations and acquiring loads tell a block of another;
threads of a block are ordered as in shared memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_clocks import CLOCK, INSTRUCTION, SEVERAL, THREAD, instruction_of
from ptx_lanes import Active
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_global import GlobalArray
    from ptx_machine import Machine

_MANY = -2  # in place of a block's number


class Track:
    """wrote, read: tags by granule, −1: nobody; blocks: the block of those who read, −1: none."""

    def __init__(self, array: GlobalArray, granule: int) -> None:
        self.array, self.granule = array, granule
        count = -(-array.size // granule)
        self.wrote = np.full(count, -1, np.int64)
        self.readers = np.full(count, -1, np.int64)
        self.blocks = np.full(count, -1, np.int32)

    def read(self, active: Active, at: np.ndarray, width: int, machine: Machine, instruction, *, cached: bool) -> None:
        """Lanes read `width` bytes, number `at` of those of this width."""
        where = self._granules(at, width)
        wrote = self.wrote[where]
        thread = self._column(active.take(machine.lanes.gid), where)
        if cached and (wrote >= 0).any():
            self._fail(active, wrote, wrote >= 0, where, machine, instruction, "reads through the read-only cache", "")
        if np.count_nonzero((wrote >= 0) & ((wrote & THREAD) != thread)):
            self._judge(active, wrote, where, machine, instruction, "reads")
        tags = self._column(active.take(machine.clocks.tag | (instruction.index << INSTRUCTION)), where)
        block = thread // machine.lanes.padded
        old, old_block = self.readers[where], self.blocks[where]
        self.readers[where] = tags
        self.blocks[where] = block
        several = ((self.readers[where] & THREAD) != thread) | ((old >= 0) & ((old & THREAD) != thread))
        if several.any():
            many = (self.blocks[where] != block) | ((old_block != -1) & (old_block != block))
            self.readers[where[several]] = np.broadcast_to(tags, where.shape)[several] | SEVERAL
            self.blocks[where[many]] = _MANY

    def write(self, active: Active, at: np.ndarray, width: int, machine: Machine, instruction, verb: str) -> None:
        where = self._granules(at, width)
        wrote, read, blocks = self.wrote[where], self.readers[where], self.blocks[where]
        thread = self._column(active.take(machine.lanes.gid), where)
        base = self._column(active.take(machine.clocks.base), where)
        if np.count_nonzero((wrote >= 0) & ((wrote & THREAD) != thread)):
            self._judge(active, wrote, where, machine, instruction, verb)
        block = thread // machine.lanes.padded
        bad = (blocks != -1) & ((blocks != block) | ((read >= base) & ((read & THREAD) != thread)))
        if np.count_nonzero(bad):
            bad = self._unordered(active, read, blocks, bad, machine)
            if bad.any():
                self._fail(active, read, bad, where, machine, instruction, verb, "read")
        tags = self._column(active.take(machine.clocks.tag | (instruction.index << INSTRUCTION)), where)
        self.wrote[where] = tags
        if verb != "updates":
            lost = self.wrote[where] != tags
            if np.count_nonzero(lost):
                self._fail(active, self.wrote[where], lost, where, machine, instruction, verb, "written")

    def _granules(self, at: np.ndarray, width: int) -> np.ndarray:
        """[lanes, granules each]."""
        count = max(1, width // self.granule)
        return at[:, None] if count == 1 else at[:, None] * count + np.arange(count)

    @staticmethod
    def _column(values: np.ndarray, where: np.ndarray) -> np.ndarray:
        return values[:, None] if where.ndim > 1 else values

    def _judge(self, active: Active, wrote: np.ndarray, where, machine: Machine, instruction, verb: str) -> None:
        """Looks closely at granules that another thread wrote."""
        base = active.take(machine.clocks.base)[:, None]
        thread = active.take(machine.lanes.gid)[:, None]
        padded = machine.lanes.padded
        other = (wrote & THREAD) // padded
        mine = thread // padded
        bad = (wrote >= 0) & ((wrote & THREAD) != thread) & ((other != mine) | (wrote >= base))
        if verb == "updates" and bad.any():
            bad &= ~machine.launch.facts.atomic[(wrote >> INSTRUCTION) & ((1 << (CLOCK - INSTRUCTION)) - 1)]
        bad = self._unordered(active, wrote, np.where(wrote >= 0, other, -1), bad, machine)
        if bad.any():
            self._fail(active, wrote, bad, where, machine, instruction, verb, "written")

    def _unordered(self, active: Active, tags: np.ndarray, blocks: np.ndarray, bad: np.ndarray, machine: Machine):
        """Those of the `bad` that neither fine clocks nor atomic operations put in order."""
        bad = bad.copy()
        rows, columns = np.nonzero(bad)
        if not len(rows):
            return bad
        lanes = active.index[rows]
        mine = machine.lanes.gid[lanes] // machine.lanes.padded
        others = blocks[rows, columns]
        found = tags[rows, columns]
        same = (others == mine) & ((found & THREAD) != SEVERAL)
        ordered = np.zeros(len(rows), bool)
        if same.any():
            ordered[same] = machine.clocks.before(lanes[same], found[same])
        far = (others != mine) & (others >= 0)
        if far.any():
            ordered[far] = machine.launch.order.seen(mine[far], others[far])
        bad[rows[ordered], columns[ordered]] = False
        return bad

    def _fail(self, active, tags, bad, where, machine: Machine, instruction: Instruction, verb: str, what: str) -> None:
        rows, columns = np.nonzero(bad)
        tag = int(tags[rows[0], columns[0]])
        at = int(where[rows[0], columns[0]]) * self.granule
        thread = tag & THREAD
        text = machine.launch.entry.instructions[instruction_of(tag)]
        who = "several threads" if thread == SEVERAL else machine.lanes.name(thread)
        place = f"byte {at} of {self.array.name}"
        raise machine.fail(
            instruction,
            int(active.index[rows[0]]),
            f"{verb} {place}, which was {what or 'written'} in the same launch, in no order:"
            f" {who} at `{text.text}` (line {text.line})",
        )


class BlockOrder:
    """What blocks know of each other through atomic operations on global memory: a counter that a block raised tells
    whoever reads it later that what the block did before is over."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._known: np.ndarray | None = None
        self._at: dict[int, np.ndarray] = {}

    def seen(self, mine: np.ndarray, others: np.ndarray) -> np.ndarray:
        return np.zeros(len(mine), bool) if self._known is None else self._known[mine, others]

    def touch(self, blocks: np.ndarray, addresses: np.ndarray, *, publish: bool, learn: bool) -> None:
        """Threads of these blocks touch these addresses one after the other."""
        if self.blocks == 1:
            return
        if self._known is None:
            self._known = np.zeros((self.blocks, self.blocks), bool)
        known = self._known
        for block, address in dict.fromkeys(zip(blocks.tolist(), addresses.tolist(), strict=True)):
            told = self._at.get(address)
            if learn and told is not None:
                known[block] |= told
            if publish:
                told = known[block] | (told if told is not None else False)
                told[block] = True
                self._at[address] = told
