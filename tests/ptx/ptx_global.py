"""Global memory: NumPy arrays at made-up addresses, far apart, which kernels read and write in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ptx_error import PtxError
from ptx_lanes import Active
from ptx_program import Instruction
from ptx_track import Track
from ptx_types import RAW, ones

if TYPE_CHECKING:
    from ptx_machine import Machine

_SHIFT = 36
"""An array has 2^36 addresses for itself, and begins in their middle: whatever is beyond its ends is in no array."""
_MIDDLE = 1 << (_SHIFT - 1)


@dataclass
class GlobalArray:
    """A registered array. data: its bytes; known: 0xFF for each byte that holds something, None if all do.

    tracked: whether the running kernel may write it, so that races are looked for.
    """

    name: str
    address: int
    data: np.ndarray
    readonly: bool
    known: np.ndarray | None = None
    tracked: bool = False
    track: Track | None = None
    _views: dict[tuple[int, int, bool], np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.data)

    def view(self, size: int, count: int, *, known: bool = False) -> np.ndarray:
        """The bytes, or what is known of them, as unsigned integers of `size` bytes, in rows of `count` if several."""
        key = (size, count, known)
        if key not in self._views:
            data = self.known if known else self.data
            view = data[: len(data) // (size * count) * (size * count)].view(RAW[size])
            self._views[key] = view if count == 1 else view.reshape(-1, count)
        return self._views[key]


class GlobalMemory:
    """Arrays by name, for one call of one or several kernels."""

    def __init__(self) -> None:
        self.arrays: list[GlobalArray] = []

    def add(self, name: str, array: np.ndarray, *, known: bool | np.ndarray = True, readonly: bool = False) -> int:
        """Registers a contiguous array, which stays the caller's; gives its address.

        known: False if nothing in it may be read before it is written; or a mask of the elements that may.
        """
        if not array.flags.c_contiguous:
            raise PtxError(f"{name}: only contiguous arrays can be registered")
        data = array.reshape(-1).view(np.uint8) if array.size else np.zeros(0, np.uint8)
        mask = None
        if known is not True:
            elements = np.broadcast_to(known, array.shape).reshape(-1)
            mask = np.repeat(np.where(elements, np.uint8(0xFF), np.uint8(0)), array.itemsize)
        address = ((len(self.arrays) + 1) << _SHIFT) + _MIDDLE
        self.arrays.append(GlobalArray(name, address, data, readonly, mask))
        return address

    def array_at(self, address: int) -> GlobalArray | None:
        number = (address >> _SHIFT) - 1
        return self.arrays[number] if 0 <= number < len(self.arrays) else None

    def begin(self, stored: set[int] | None, granule: int) -> None:
        """Before a launch. stored: addresses of the arrays that it may write, None: any."""
        for array in self.arrays:
            array.tracked = not array.readonly and (stored is None or array.address in stored)
            array.track = None
        self.granule = granule

    # Accesses of lanes: `address` are those of the active lanes, int64

    def pieces(self, active: Active, address: np.ndarray, width: int, machine: Machine, instruction: Instruction):
        """Cuts an access by arrays: (array, lanes, offsets in bytes, which of the lanes of `active`), checked."""
        low, high = int(address.min()), int(address.max())
        if int(np.bitwise_or.reduce(address)) & (width - 1):
            wrong = (address & (width - 1)) != 0
            lane, found = int(active.index[np.argmax(wrong)]), int(address[np.argmax(wrong)])
            raise machine.fail(instruction, lane, f"the address of {self.describe(found)} is no multiple of {width}")
        array = self.array_at(low)
        if array is not None and low >= array.address and high + width <= array.address + array.size:
            report = machine.launch.report
            if report.profile:
                report.global_access(instruction, active, array, address - array.address, width)
            yield array, active, address - array.address, None
            return
        numbers = address >> _SHIFT
        for number in np.unique(numbers):
            chosen = numbers == number
            array = self.array_at(int(number) << _SHIFT)
            offsets = address[chosen] - (0 if array is None else array.address)
            outside = np.ones(len(offsets), bool)
            if array is not None:
                outside = (offsets < 0) | (offsets + width > array.size)
            if outside.any():
                lane = int(active.index[chosen][np.argmax(outside)])
                found = int(address[chosen][np.argmax(outside)])
                raise machine.fail(instruction, lane, f"{width} bytes at {self.describe(found)} are outside of it")
        for number in np.unique(numbers):
            chosen = numbers == number
            yield from (
                (array, lanes, offsets, chosen)
                for array, lanes, offsets, _ in self.pieces(
                    active.among(chosen), address[chosen], width, machine, instruction
                )
            )

    def describe(self, address: int) -> str:
        array = self.array_at(address)
        if array is None:
            return f"address {address:#x}, where there is no array"
        return f"byte {address - array.address} of {array.name}, which has {array.size}"

    def load(
        self, active: Active, address: np.ndarray, size: int, count: int, machine, instruction, *, cached: bool = False
    ) -> np.ndarray:
        """[lanes] or [lanes, count]. cached: through the read-only cache."""
        width = size * count
        out = None
        for array, lanes, offsets, chosen in self.pieces(active, address, width, machine, instruction):
            at = offsets // width
            self._check_known(array, lanes, offsets, at, size, count, machine, instruction)
            if array.tracked:
                self.tracked(array).read(lanes, at, width, machine, instruction, cached=cached)
            values = array.view(size, count)[at]
            if chosen is None:
                return values
            if out is None:
                out = np.zeros((active.count, *values.shape[1:]), values.dtype)
            out[chosen] = values
        return out

    def _check_known(self, array, lanes, offsets, at, size, count, machine, instruction) -> None:
        if array.known is None:
            return
        known = array.view(size, count, known=True)[at] == ones(size)
        if not known.all():
            row = int(np.argmin(known if count == 1 else known.all(axis=1)))
            raise machine.fail(
                instruction,
                int(lanes.index[row]),
                f"reads {self.describe(array.address + int(offsets[row]))}, which nobody has written",
            )

    def store(self, active: Active, address: np.ndarray, values: np.ndarray, machine, instruction) -> None:
        """values: unsigned integers [lanes] or [lanes, count]."""
        count = values.shape[1] if values.ndim > 1 else 1
        size = values.itemsize
        for array, lanes, offsets, chosen in self.pieces(active, address, size * count, machine, instruction):
            at = offsets // (size * count)
            self._check_writable(array, lanes, machine, instruction)
            self.tracked(array).write(lanes, at, size * count, machine, instruction, "writes")
            array.view(size, count)[at] = values if chosen is None else values[chosen]
            if array.known is not None:
                array.view(size, count, known=True)[at] = ones(size)

    def update(self, active: Active, address: np.ndarray, size: int, machine, instruction):
        """Yields, for each array: its numbers of `size` bytes, where in them, and which of the lanes of `active`."""
        for array, lanes, offsets, chosen in self.pieces(active, address, size, machine, instruction):
            at = offsets // size
            self._check_writable(array, lanes, machine, instruction)
            self._check_known(array, lanes, offsets, at, size, 1, machine, instruction)
            self.tracked(array).write(lanes, at, size, machine, instruction, "updates")
            yield array.view(size, 1), at, slice(None) if chosen is None else chosen

    def _check_writable(self, array: GlobalArray, lanes: Active, machine, instruction: Instruction) -> None:
        if array.readonly:
            raise machine.fail(instruction, int(lanes.index[0]), f"writes to {array.name}, which is constant")
        if not array.tracked:
            raise machine.fail(
                instruction, int(lanes.index[0]), f"writes to {array.name}: its address was not seen to be written to"
            )

    def tracked(self, array: GlobalArray) -> Track:
        if array.track is None:
            array.track = Track(array, self.granule)
        return array.track
