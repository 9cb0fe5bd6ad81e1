"""A launch of a kernel: what is known of it beforehand, its parameters, and the blocks one chunk after the other."""

from __future__ import annotations

import gc
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import ptx_instructions  # noqa: F401  (registers the handlers)
from ptx_async import Copies
from ptx_error import PtxError
from ptx_facts import facts_of
from ptx_global import GlobalMemory
from ptx_lanes import Dim, Lanes, check_launch
from ptx_machine import Machine
from ptx_mbarrier import Mbarriers
from ptx_program import Instruction, Module
from ptx_report import Report
from ptx_shared import LocalMemory, SharedLayout, SharedMemory
from ptx_track import BlockOrder

_MOST_LANES, _MOST_FINE_LANES = 8192, 2048
MOST_BLOCKS = 3_000_000
"""Basic blocks that a launch may run: more are an endless loop."""
_SHARED_WINDOW, _LOCAL_WINDOW = 1 << 60, 1 << 61
"""What generic addresses of shared and of local memory have added."""


class Launch:
    """One launch. report: what it does; order: what its blocks know of each other."""

    def __init__(
        self, module: Module, name: str, grid: Dim, block: Dim, memory: GlobalMemory, *, dynamic: int, report: Report
    ) -> None:
        check_launch(grid, block)
        self.entry = module.entries[name]
        self.facts = facts_of(module, self.entry)
        self.grid, self.block, self.memory, self.report = grid, block, memory, report
        self.layout = SharedLayout.of(self.facts.shared, dynamic, self.facts.shared_granule)
        self.order = BlockOrder(math.prod(grid))
        self.most_blocks = MOST_BLOCKS
        threads = math.prod(block)
        most, required = self.entry.most_threads, self.entry.required_threads
        if threads > (most or threads) or threads != (required or threads):
            raise PtxError(f"{name} is compiled for at most {required or most} threads in a block, not {threads}")
        self.symbols = self._module_arrays()
        self.locals = self._local_addresses()
        self.params = b""

    def _module_arrays(self) -> dict[str, int]:
        """Addresses of the module's own arrays, which are new in each launch."""
        return {
            array.name: self.memory.add(
                array.name, np.frombuffer(array.data, np.uint8).copy(), readonly=array.space == "const"
            )
            for array in self.facts.globals
            if array.data is not None
        }

    def _local_addresses(self) -> dict[str, int]:
        at, places = 0, {}
        for array in self.facts.local:
            at = -(-at // array.align) * array.align
            places[array.name] = at
            at += array.size
        self.local_size = at
        return places

    def pass_params(self, values: Sequence[int | float | bytes]) -> None:
        """The kernel's arguments, addresses as integers."""
        params = self.entry.params
        if len(values) != len(params):
            raise PtxError(f"{self.entry.name} takes {len(params)} parameters, not {len(values)}")
        data = bytearray(sum(param.size + 16 for param in params))
        for param, value in zip(params, values, strict=True):
            data[param.offset : param.offset + param.size] = _bytes(value, param.kind, param.size)
        self.params = bytes(data)
        stored = self.facts.stored
        if stored is not None:
            found = [value for param, value in zip(params, values, strict=True) if param.name in stored]
            whole = all(isinstance(value, int | np.integer) for value in found)  # no structs with addresses
            stored = {*map(int, found), *self.symbols.values()} if whole else None
        self.memory.begin(stored, self.facts.global_granule)

    def run(self) -> None:
        """Runs all blocks. Raises PtxError for whatever the kernel does wrong."""
        blocks = math.prod(self.grid)
        padded = -(-math.prod(self.block) // 32) * 32
        most = max(1, (_MOST_FINE_LANES if self.facts.fine else _MOST_LANES) // padded)
        with np.errstate(all="ignore"), _without_collector():
            for first in range(0, blocks, most):
                machine = Machine(self, Lanes(self.grid, self.block, first, min(most, blocks - first)))
                machine.run()
                self.report.add_counts(self.entry, machine.executed())
                vars(machine).clear()  # it and its functions hold each other, and many arrays

    # What the machine asks

    def error(self, instruction: Instruction, thread: int, what: str) -> PtxError:
        name = Lanes(self.grid, self.block, 0, 1).name(thread)
        return PtxError(f"{self.entry.name}: `{instruction.text}` (line {instruction.line}), {name}: {what}")

    def address_of(self, name: str, instruction: Instruction) -> int:
        """The address of a variable in its own space."""
        if name in self.symbols:
            return self.symbols[name]
        if name in self.locals:
            return self.locals[name]
        if (shared := self.layout.address(name)) is not None:
            return shared
        if name in self.facts.params:
            return self.facts.params[name].offset
        raise instruction.unknown(f"there is no variable {name}")

    def shared_memory(self, machine: Machine) -> SharedMemory:
        return SharedMemory(machine, self.layout)

    def local_memory(self, machine: Machine) -> LocalMemory:
        return LocalMemory(machine, self.local_size)

    def mbarriers(self, machine: Machine) -> Mbarriers | None:
        return Mbarriers(machine) if self.facts.uses_mbarriers else None

    def copies(self, machine: Machine) -> Copies:
        return Copies(machine)

    @cached_property
    def windows(self) -> dict[str, int]:
        """What generic addresses of a space have added."""
        return {"shared": _SHARED_WINDOW, "local": _LOCAL_WINDOW, "global": 0, "const": 0, "param": 0}


@contextmanager
def _without_collector() -> Iterator[None]:
    """Thousands of functions that live as long as the launch would make Python look for garbage again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _bytes(value: int | float | bytes, kind: str, size: int) -> bytes:
    if isinstance(value, bytes | bytearray):
        if len(value) != size:
            raise PtxError(f"a parameter of {size} bytes cannot be {len(value)} bytes")
        return bytes(value)
    if kind in ("f32", "f64"):
        return struct.pack("<f" if kind == "f32" else "<d", float(value))
    if isinstance(value, float | np.floating):
        raise PtxError(f"a parameter of type {kind} cannot be the float {value}")
    return (int(value) % (1 << (8 * size))).to_bytes(size, "little")
