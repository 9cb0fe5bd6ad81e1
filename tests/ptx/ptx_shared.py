"""Shared memory: the arrays of a kernel, once for each block that runs."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ptx_clocks import CLOCK, IN_FLIGHT, THREAD
from ptx_lanes import Active
from ptx_program import Array, Instruction
from ptx_shadow import Shadow
from ptx_types import RAW, ones

if TYPE_CHECKING:
    from ptx_machine import Machine

_FIRST, _GAP = 1024, 256
"""Addresses begin here, and arrays lie at least this far apart, so that none borders another."""


@dataclass(frozen=True)
class SharedLayout:
    """Where the arrays lie. starts, ends: their addresses, in order; stride: bytes from one block's memory to the
    next's; granule: the width of the narrowest access."""

    names: tuple[str, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    stride: int
    granule: int

    @staticmethod
    def of(arrays: list[Array], dynamic: int, granule: int) -> SharedLayout:
        """Arrays without a size are the dynamic shared memory, of `dynamic` bytes."""
        names, starts, ends, at = [], [], [], _FIRST
        for array in arrays:
            step = max(array.align, 128)
            at = -(-at // step) * step
            size = array.size or dynamic
            names.append(array.name)
            starts.append(at)
            ends.append(at + size)
            at += size + _GAP
        return SharedLayout(tuple(names), tuple(starts), tuple(ends), -(-at // 128) * 128, granule)

    def address(self, name: str) -> int | None:
        return self.starts[self.names.index(name)] if name in self.names else None


class SharedMemory:
    """Addresses are those of a block; positions are in the memory of all blocks."""

    def __init__(self, machine: Machine, layout: SharedLayout) -> None:
        self.machine, self.layout, self.granule = machine, layout, layout.granule
        size = layout.stride * machine.lanes.blocks
        self.data = np.full(size, 0xA5, np.uint8)
        self.offset = machine.lanes.block_of.astype(np.int64) * layout.stride
        self.shadow = Shadow(machine, size, layout.granule)
        self._views: dict[tuple[int, int], np.ndarray] = {}
        # Granules that threads wrote and did not fence, for instructions that read past their caches.
        self.unfenced = np.zeros(size // layout.granule, bool) if machine.launch.facts.uses_wgmma else None

    def place(self, active: Active, address: np.ndarray, width: int, instruction: Instruction):
        """Positions of accesses of `width` bytes, and the addresses that they lie in; checked."""
        low, high = int(address.min()), int(address.max()) + width
        layout = self.layout
        at = bisect.bisect_right(layout.starts, low) - 1
        if at < 0 or high > layout.ends[at]:
            self._check_bounds(active, address, width, instruction)
        if int(np.bitwise_or.reduce(address)) & (width - 1):
            wrong = (address & (width - 1)) != 0
            lane, found = int(active.index[np.argmax(wrong)]), int(address[np.argmax(wrong)])
            raise self.machine.fail(
                instruction, lane, f"the address of {self.describe(found)} is no multiple of {width}"
            )
        report = self.machine.launch.report
        if report.profile:
            report.shared_access(instruction, active, address, width)
        return address + active.take(self.offset), low, high

    def _check_bounds(self, active: Active, address: np.ndarray, width: int, instruction: Instruction) -> None:
        layout = self.layout
        at = np.searchsorted(np.array(layout.starts), address, side="right") - 1
        ends = np.array((*layout.ends, 0))
        outside = (at < 0) | (address + width > ends[at])
        if outside.any():
            lane, found = int(active.index[np.argmax(outside)]), int(address[np.argmax(outside)])
            raise self.machine.fail(
                instruction, lane, f"{width} bytes at {self.describe(found)} are outside of shared memory"
            )

    def describe(self, position: int) -> str:
        """An address, or a position, in words: which array, and how far from its start."""
        layout = self.layout
        address = position % layout.stride if position >= 0 else position
        at = max(0, bisect.bisect_right(layout.starts, address) - 1)
        if not layout.names:
            return f"address {address} of shared memory, of which there is none"
        size = layout.ends[at] - layout.starts[at]
        return f"byte {address - layout.starts[at]} of {layout.names[at]}, which has {size}"

    def view(self, size: int, count: int) -> np.ndarray:
        """The memory as unsigned integers of `size` bytes, in rows of `count` if there are several."""
        if (size, count) not in self._views:
            view = self.data.view(RAW[size])
            self._views[size, count] = view if count == 1 else view.reshape(-1, count)
        return self._views[size, count]

    def load(self, active: Active, address: np.ndarray, size: int, count: int, instruction: Instruction) -> np.ndarray:
        """[lanes] or, for vectors, [lanes, count]."""
        width = size * count
        at, low, high = self.place(active, address, width, instruction)
        self.shadow.read(active, at, width, low, high, instruction)
        return self.view(size, count)[at // width]

    def store(self, active: Active, address: np.ndarray, values: np.ndarray, instruction: Instruction) -> None:
        """values: unsigned integers [lanes] or [lanes, count]."""
        count = values.shape[1] if values.ndim > 1 else 1
        width = values.itemsize * count
        at, low, high = self.place(active, address, width, instruction)
        self.shadow.write(active, at, width, low, high, instruction)
        self.view(values.itemsize, count)[at // width] = values
        if self.unfenced is not None:
            self.unfenced[self._granules(at, width)] = True

    def copy(self, active: Active, address: np.ndarray, values: np.ndarray, instruction: Instruction) -> np.ndarray:
        """Starts copies of `values`, uint32 [lanes, words], which nobody may touch yet. Gives their granules."""
        width = 4 * values.shape[1]
        at, low, high = self.place(active, address, width, instruction)
        where = self.shadow.copy(active, at, width, low, high, instruction)
        self.view(4, 1)[at[:, None] // 4 + np.arange(values.shape[1])] = values
        if self.unfenced is not None:
            self.unfenced[where] = True
        return where

    def fence(self, active: Active) -> None:
        """fence.proxy.async: what these threads have written, also by copies they waited for, may be read past them."""
        if self.unfenced is None:
            return
        open_ = np.flatnonzero(self.unfenced)
        tags = self.shadow.wrote[open_]
        mine = np.zeros(THREAD + 1, bool)
        mine[self.machine.lanes.gid[active.index]] = True
        self.unfenced[open_[mine[tags & THREAD] & (tags >> CLOCK != IN_FLIGHT)]] = False

    def check_fenced(self, active: Active, address: np.ndarray, width: int, instruction: Instruction) -> None:
        """Raises PtxError if any byte was written without a fence behind."""
        at = address + active.take(self.offset)
        wrong = self.unfenced[self._granules(at, width)].any(axis=1)
        if wrong.any():
            lane, found = int(active.index[np.argmax(wrong)]), int(address[np.argmax(wrong)])
            what = f"reads {self.describe(found)}, which was written without a fence.proxy.async behind"
            raise self.machine.fail(instruction, lane, what)

    def _granules(self, at: np.ndarray, width: int) -> np.ndarray:
        return at[:, None] // self.granule + np.arange(max(1, width // self.granule))

    def update(self, active: Active, address: np.ndarray, size: int, instruction: Instruction):
        """The memory as numbers of `size` bytes and where in it lanes want to change it atomically."""
        at, low, high = self.place(active, address, size, instruction)
        self.shadow.update(active, at, size, low, high, instruction)
        return self.view(size, 1), at // size

    def barrier(self, active: Active) -> None:
        """The threads of the blocks of `active` have met."""
        self.shadow.barrier(active.count == len(active.lanes.index))


class LocalMemory:
    """Memory of each thread's own. Bytes that were not written must not be read."""

    def __init__(self, machine: Machine, size: int) -> None:
        self.machine, self.size = machine, size
        self.stride = -(-size // 16) * 16
        self.data = np.zeros(machine.lanes.n * self.stride, np.uint8)
        self.known = np.zeros(machine.lanes.n * self.stride, np.uint8)
        self.offset = np.arange(machine.lanes.n) * self.stride

    def _place(self, active: Active, address: np.ndarray, width: int, instruction: Instruction) -> np.ndarray:
        bad = (address < 0) | (address + width > self.size) | ((address & (width - 1)) != 0)
        if bad.any():
            lane, found = int(active.index[np.argmax(bad)]), int(address[np.argmax(bad)])
            raise self.machine.fail(
                instruction,
                lane,
                f"{width} bytes at byte {found} of local memory, which has {self.size}, outside or not aligned",
            )
        return (active.take(self.offset) + address) // width

    def _view(self, array: np.ndarray, size: int, count: int) -> np.ndarray:
        view = array.view(RAW[size])
        return view if count == 1 else view.reshape(-1, count)

    def load(self, active: Active, address: np.ndarray, size: int, count: int, instruction: Instruction) -> np.ndarray:
        at = self._place(active, address, size * count, instruction)
        known = self._view(self.known, size, count)[at] == ones(size)
        if not known.all():
            row = int(np.argmin(known if count == 1 else known.all(axis=1)))
            raise self.machine.fail(
                instruction,
                int(active.index[row]),
                f"reads byte {int(address[row])} of local memory, which the thread has not written",
            )
        return self._view(self.data, size, count)[at]

    def store(self, active: Active, address: np.ndarray, values: np.ndarray, instruction: Instruction) -> None:
        count = values.shape[1] if values.ndim > 1 else 1
        at = self._place(active, address, values.itemsize * count, instruction)
        self._view(self.data, values.itemsize, count)[at] = values
        self._view(self.known, values.itemsize, count)[at] = ones(values.itemsize)
