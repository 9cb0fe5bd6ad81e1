"""What a launch did: instructions run, bank conflicts of shared memory, sectors of global memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ptx_lanes import WARP, Active
from ptx_program import Entry, Instruction

if TYPE_CHECKING:
    from ptx_global import GlobalArray

BANKS, BANK_BYTES, SECTOR = 32, 4, 32
_OFFSET_BITS = 36


@dataclass
class SharedUse:
    """One instruction on shared memory. executions: by warps; wavefronts: passes over the banks that these took;
    ideal: without two words of one bank in a pass. 64-bit accesses take a pass for each half warp, 128-bit ones for
    each quarter, and so does each 8×8 matrix of ldmatrix."""

    text: str
    line: int
    executions: int = 0
    wavefronts: int = 0
    ideal: int = 0

    @property
    def conflicts(self) -> int:
        return self.wavefronts - self.ideal


@dataclass
class GlobalUse:
    """One instruction on global memory. sectors: of 32 bytes that each warp's access touches, added up; ideal: what the
    bytes asked for would fill."""

    text: str
    line: int
    executions: int = 0
    sectors: int = 0
    ideal: int = 0
    arrays: set[str] = field(default_factory=set)


class Report:
    """Of one launch. counts: warps that ran each instruction, by its name with all parts, such as `ld.shared.f32`.

    Only with `profile`: shared, global_: by the number of the instruction in the text of the kernel; reads, writes: how
    often threads asked for each byte of an array.
    """

    def __init__(self, kernel: str, *, profile: bool = False) -> None:
        self.kernel, self.profile = kernel, profile
        self.counts: Counter[str] = Counter()
        self.shared: dict[int, SharedUse] = {}
        self.global_: dict[int, GlobalUse] = {}
        self._touched: dict[tuple[str, bool, int], np.ndarray] = {}
        self._sizes: dict[str, int] = {}

    @property
    def instructions(self) -> int:
        """Warp-level instructions in all."""
        return sum(self.counts.values())

    @property
    def conflicts(self) -> int:
        """Wavefronts beyond the ideal, of all instructions."""
        return sum(use.conflicts for use in self.shared.values())

    def count(self, prefix: str) -> int:
        """Warps that ran instructions whose name begins so."""
        return sum(number for name, number in self.counts.items() if name.startswith(prefix))

    def reads(self, array: str) -> np.ndarray:
        """How often each byte of an array was read by a thread, atomic operations and copies included."""
        return self._bytes(array, writes=False)

    def writes(self, array: str) -> np.ndarray:
        return self._bytes(array, writes=True)

    def _bytes(self, array: str, *, writes: bool) -> np.ndarray:
        total = np.zeros(self._sizes.get(array, 0), np.int64)
        for (name, wrote, width), counts in self._touched.items():
            if (name, wrote) == (array, writes):
                total[: len(counts) * width] += np.repeat(counts, width)
        return total

    # What the machine tells

    def add_counts(self, entry: Entry, executed: Counter[int]) -> None:
        for index, number in executed.items():
            instruction = entry.instructions[index]
            self.counts[".".join((instruction.name, *instruction.parts))] += number

    def shared_access(self, instruction: Instruction, active: Active, address: np.ndarray, width: int) -> None:
        use = self.shared.setdefault(instruction.index, SharedUse(instruction.text, instruction.line))
        use.executions += active.warps
        wavefronts, ideal = wavefronts_of(active, address, width)
        use.wavefronts += wavefronts
        use.ideal += ideal

    def global_access(
        self, instruction: Instruction, active: Active, array: GlobalArray, offset: np.ndarray, width: int
    ) -> None:
        use = self.global_.setdefault(instruction.index, GlobalUse(instruction.text, instruction.line))
        use.arrays.add(array.name)
        use.executions += active.warps
        warp = (active.index // WARP) << _OFFSET_BITS  # of width 16 at most, aligned: no access crosses a sector
        items = np.unique(warp | offset // width)
        use.ideal += int(np.sum(-(-np.bincount(items >> _OFFSET_BITS) * width // SECTOR)))
        use.sectors += len(np.unique(warp | offset // SECTOR))
        self._sizes[array.name] = array.size
        names = {"st": (True,), "atom": (False, True), "red": (False, True)}.get(instruction.name, (False,))
        for writes in names:
            self.touch(array, offset // width, width, writes=writes)

    def touch(self, array: GlobalArray, at: np.ndarray, width: int, *, writes: bool) -> None:
        self._sizes[array.name] = array.size
        key = (array.name, writes, width)
        if key not in self._touched:
            self._touched[key] = np.zeros(array.size // width, np.int64)
        np.add.at(self._touched[key], at, 1)


def wavefronts_of(active: Active, address: np.ndarray, width: int) -> tuple[int, int]:
    """Passes over the banks that lanes need for `width` bytes at `address`, and passes without conflicts."""
    words = max(1, width // BANK_BYTES)
    lanes_each = WARP // words
    word = np.full((active.lanes.n, words), -1, np.int64)
    word[active.index] = (address // BANK_BYTES)[:, None] + np.arange(words)
    rows = np.sort(word.reshape(-1, lanes_each * words), axis=1)
    rows = rows[rows[:, -1] >= 0]
    new = np.ones(rows.shape, bool)
    new[:, 1:] = rows[:, 1:] != rows[:, :-1]
    new &= rows >= 0
    cell = np.arange(len(rows))[:, None] * BANKS + rows % BANKS
    counts = np.bincount(cell[new], minlength=len(rows) * BANKS).reshape(-1, BANKS)
    return int(counts.max(axis=1).sum()), len(rows)
