"""What was done to each byte of shared memory: who wrote it last, who read it since, and whether that was in order.

Memory is looked at in granules, as wide as the narrowest access of the kernel. Arrays are over the granules of all
blocks that run together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ptx_clocks import AGENT, CLOCK, IN_FLIGHT, INSTRUCTION, SEVERAL, THREAD, instruction_of
from ptx_lanes import WARP, Active
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

_LOG = 48  # reads that are kept before they are entered one by one


@dataclass(frozen=True)
class _Read:
    """Reads that no write has asked about yet. low, high: the addresses in a block; tags: of all lanes, at the time."""

    low: int
    high: int
    where: np.ndarray
    index: np.ndarray
    tags: np.ndarray


class Shadow:
    """wrote: the tag of the last write of a granule, −1 if nobody wrote it since the block began."""

    def __init__(self, machine: Machine, size: int, granule: int) -> None:
        self.machine, self.granule = machine, granule
        self.wrote = np.full(size // granule, -1, np.int64)
        self._views: dict[int, tuple[int, np.ndarray]] = {}
        self._log: list[_Read] = []
        fine = machine.clocks.known is not None
        self._readers = _ReadersOfWarps(machine, len(self.wrote)) if fine else _Readers(machine, len(self.wrote))

    def _granules(self, width: int) -> tuple[int, np.ndarray]:
        """How many bits of an address to drop for accesses of a width, and `wrote` with one row for each of them."""
        if width not in self._views:
            shape = (-1,) if width <= self.granule else (-1, width // self.granule)
            self._views[width] = (max(width, self.granule).bit_length() - 1, self.wrote.reshape(shape))
        return self._views[width]

    def read(self, active: Active, at: np.ndarray, width: int, low: int, high: int, instruction: Instruction) -> None:
        """Lanes read `width` bytes at the positions `at`, which lie in low … high of their blocks."""
        shift, wrote = self._granules(width)
        where = at >> shift
        tags = wrote[where]
        base = active.take(self.machine.clocks.base)
        if tags.ndim > 1:
            base = base[:, None]
        if np.count_nonzero(tags.view(np.uint64) >= base.view(np.uint64)):
            self._judge(active, where, tags, base, instruction, "reads")
        entry = _Read(low, high, self._numbers(where, width), active.index, self._tags(instruction))
        self._log.append(entry)
        if len(self._log) > _LOG:
            self._enter(self._log[: _LOG // 2])
            del self._log[: _LOG // 2]

    def write(self, active: Active, at: np.ndarray, width: int, low: int, high: int, instruction: Instruction) -> None:
        self._write(active, at, width, low, high, instruction, "writes", None)

    def update(self, active: Active, at: np.ndarray, width: int, low: int, high: int, instruction: Instruction) -> None:
        """Lanes change `width` bytes atomically."""
        self._write(active, at, width, low, high, instruction, "updates", None)

    def copy(
        self, active: Active, at: np.ndarray, width: int, low: int, high: int, instruction: Instruction
    ) -> np.ndarray:
        """Lanes start copies to `at`. Gives the granules [lanes, granules each], for `arrive`."""
        self._write(active, at, width, low, high, instruction, "copies to", IN_FLIGHT)
        where = self._numbers(at >> self._granules(width)[0], width)
        return where if where.ndim > 1 else where[:, None]

    def arrive(self, where: np.ndarray, tags: np.ndarray) -> None:
        """Copies to these granules are complete as if written with these tags."""
        self.wrote[where] = tags

    def barrier(self, everybody: bool) -> None:
        """All threads of some blocks, or of all, have met."""
        if everybody:
            self._log.clear()

    def _tags(self, instruction: Instruction) -> np.ndarray:
        return self.machine.clocks.tag | (instruction.index << INSTRUCTION)

    def _numbers(self, where: np.ndarray, width: int) -> np.ndarray:
        """The numbers of the granules from those of accesses."""
        count = width // self.granule
        return where if count <= 1 else where[:, None] * count + np.arange(count)

    def _write(self, active, at, width, low, high, instruction, verb, clock) -> None:
        shift, wrote = self._granules(width)
        where = at >> shift
        tags = wrote[where]
        base = active.take(self.machine.clocks.base)
        if tags.ndim > 1:
            base = base[:, None]
        fresh = tags >= base if verb != "updates" else tags.view(np.uint64) >= base.view(np.uint64)
        if np.count_nonzero(fresh):
            self._judge(active, where, tags, base, instruction, verb)
        numbers = self._numbers(where, width)
        overlapping = [entry for entry in self._log if entry.low < high and low < entry.high]
        if overlapping:
            self._enter(overlapping)
            self._log = [entry for entry in self._log if not (entry.low < high and low < entry.high)]
        self._readers.check(active, numbers, instruction, verb)
        mine = active.take(self._tags(instruction))
        if clock is not None:
            mine = (mine & ((1 << CLOCK) - 1)) | (clock << CLOCK)
        rows = mine[:, None] if tags.ndim > 1 else mine
        wrote[where] = rows
        if verb != "updates":
            lost = wrote[where] != rows
            if np.count_nonzero(lost):
                rows, columns = _cells(lost)
                lane = active.index[rows[0]]
                other = int(wrote[where][lost][0])
                at = self._numbers(where, width)[lost][0] if tags.ndim == 1 else numbers[rows[0], columns[0]]
                self._race(instruction, lane, verb, other, int(at), "in the same instruction")

    def _enter(self, entries: list[_Read]) -> None:
        base = self.machine.clocks.base
        for entry in entries:
            tags = entry.tags[entry.index]
            still = tags >= base[entry.index]
            if still.any():
                where = entry.where[still]
                self._readers.enter(where if where.ndim > 1 else where[:, None], entry.index[still], tags[still])

    def _judge(self, active: Active, where, tags, base, instruction: Instruction, verb: str) -> None:
        """Looks closely at the granules whose last write may not be over for their lanes."""
        machine = self.machine
        rows, columns = _cells(tags.view(np.uint64) >= base.view(np.uint64))
        found = tags[rows, columns] if tags.ndim > 1 else tags[rows]
        lanes = active.index[rows]
        count = tags.shape[1] if tags.ndim > 1 else 1
        granules = where[rows] * count + columns
        nobody = found < 0
        if verb in ("reads", "updates") and nobody.any():
            at = int(np.argmax(nobody))
            place = machine.shared.describe(int(granules[at]) * self.granule)
            raise machine.fail(instruction, int(lanes[at]), f"{verb} {place}, which nobody has written")
        flying = (found >> CLOCK) == IN_FLIGHT
        if flying.any():
            at = int(np.argmax(flying))
            place = machine.shared.describe(int(granules[at]) * self.granule)
            what = f"{verb} {place}, to which a copy is still under way: {self._who(int(found[at]))}"
            raise machine.fail(instruction, int(lanes[at]), what)
        threads = found & THREAD
        fine = nobody | ((threads == machine.lanes.gid[lanes]) & (threads != AGENT))
        if verb == "updates":
            fine |= machine.launch.facts.atomic[(found >> INSTRUCTION) & ((1 << (CLOCK - INSTRUCTION)) - 1)]
        left = np.flatnonzero(~fine)
        if len(left):
            left = left[~machine.clocks.before(lanes[left], found[left])]
        if len(left):
            at = left[0]
            self._race(
                instruction, int(lanes[at]), verb, int(found[at]), int(granules[at]), "without a barrier between"
            )

    def _race(self, instruction: Instruction, lane: int, verb: str, other: int, granule: int, how: str) -> None:
        place = self.machine.shared.describe(granule * self.granule)
        raise self.machine.fail(instruction, lane, f"{verb} {place}, which was written {how}: {self._who(other)}")

    def _who(self, tag: int) -> str:
        machine = self.machine
        text = machine.launch.entry.instructions[instruction_of(tag)]
        thread = tag & THREAD
        name = "a copy that an mbarrier reports" if thread == AGENT else machine.lanes.name(thread)
        return f"{name} at `{text.text}` (line {text.line})"


def _cells(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns where a mask of one or two dimensions holds."""
    if mask.ndim > 1:
        return np.nonzero(mask)
    rows = np.flatnonzero(mask)
    return rows, np.zeros_like(rows)


class _Readers:
    """Who has read a granule since the last barrier: the tag of a thread, or of SEVERAL."""

    def __init__(self, machine: Machine, granules: int) -> None:
        self.machine = machine
        self.read = np.full(granules, -1, np.int64)

    def enter(self, where: np.ndarray, index: np.ndarray, tags: np.ndarray) -> None:
        """Threads with these tags have read their rows of granules."""
        base = self.machine.clocks.base[index][:, None]
        rows = np.broadcast_to(tags[:, None], where.shape)
        old = self.read[where]
        self.read[where] = rows
        several = (self.read[where] & THREAD) != (rows & THREAD)
        several |= (old >= base) & ((old & THREAD) != (rows & THREAD))
        if several.any():
            self.read[where[several]] = rows[several] | SEVERAL

    def check(self, active: Active, where: np.ndarray, instruction: Instruction, verb: str) -> None:
        """Raises PtxError if a granule that is to be written was read by another thread since the last barrier."""
        clocks, lanes = self.machine.clocks, self.machine.lanes
        read = self.read[where]
        base, own = active.take(clocks.base), active.take(lanes.gid)
        if read.ndim > 1:
            base, own = base[:, None], own[:, None]
        bad = (read >= base) & ((read & THREAD) != own)
        if np.count_nonzero(bad):
            rows, columns = _cells(bad)
            granule = where[rows[0], columns[0]] if where.ndim > 1 else where[rows[0]]
            tag = int(read[rows[0], columns[0]] if read.ndim > 1 else read[rows[0]])
            other = None if tag & THREAD == SEVERAL else tag & THREAD
            _read_race(self.machine, instruction, int(active.index[rows[0]]), verb, int(granule), other, tag)


class _ReadersOfWarps:
    """Who has read a granule, in a kernel with finer order than barriers of the block: of each warp the lanes, and the
    newest of their clocks."""

    def __init__(self, machine: Machine, granules: int) -> None:
        self.machine = machine
        self.lanes = np.zeros((granules, machine.lanes.warps), np.uint32)
        self.tags = np.full((granules, machine.lanes.warps), -1, np.int64)

    def enter(self, where: np.ndarray, index: np.ndarray, tags: np.ndarray) -> None:
        machine = self.machine
        base = machine.clocks.base[index]
        warp = machine.lanes.thread[index] // WARP
        bit = np.uint32(1) << (index % WARP).astype(np.uint32)
        cell = (where * machine.lanes.warps + warp[:, None]).reshape(-1)
        count = where.shape[1]
        flat_lanes, flat_tags = self.lanes.reshape(-1), self.tags.reshape(-1)
        over = flat_tags[cell] < np.repeat(base, count)
        flat_lanes[cell[over]] = 0
        np.bitwise_or.at(flat_lanes, cell, np.repeat(bit, count))
        np.maximum.at(flat_tags, cell, np.repeat(tags, count))

    def check(self, active: Active, where: np.ndarray, instruction: Instruction, verb: str) -> None:
        machine = self.machine
        clocks, lanes = machine.clocks, machine.lanes
        where = where if where.ndim > 1 else where[:, None]
        tags = self.tags[where]
        rows, columns, warps = np.nonzero(tags >= active.take(clocks.base)[:, None, None])
        if not len(rows):
            return
        readers = self.lanes[where[rows, columns], warps]
        bits = ((readers[:, None] >> np.arange(WARP, dtype=np.uint32)) & 1).astype(bool)
        index = active.index[rows]
        thread = warps[:, None] * WARP + np.arange(WARP)
        stamps = tags[rows, columns, warps] >> CLOCK
        known = clocks.known[lanes.block_of[index][:, None], lanes.thread[index][:, None], thread] > stamps[:, None]
        bad = bits & ~known & (thread != lanes.thread[index][:, None])
        if bad.any():
            at = int(np.argmax(bad.any(axis=1)))
            other = lanes.gid[lanes.block_of[index[at]] * lanes.padded + warps[at] * WARP] + int(np.argmax(bad[at]))
            granule, tag = int(where[rows[at], columns[at]]), int(tags[rows[at], columns[at], warps[at]])
            _read_race(machine, instruction, int(index[at]), verb, granule, int(other), tag)
        self.lanes[where], self.tags[where] = 0, -1  # what comes after this write comes after those reads


def _read_race(machine: Machine, instruction: Instruction, lane: int, verb: str, granule: int, other, tag: int) -> None:
    place = machine.shared.describe(granule * machine.shared.granule)
    who = "several threads" if other is None else machine.lanes.name(other)
    text = machine.launch.entry.instructions[instruction_of(tag)]
    raise machine.fail(
        instruction,
        lane,
        f"{verb} {place}, which was read without a barrier between: {who} at `{text.text}` (line {text.line})",
    )
