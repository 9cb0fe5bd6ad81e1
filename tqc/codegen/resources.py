"""What the compiler says that a kernel takes: registers, spills, stack, shared and constant memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tqc.codegen.cuda_toolchain import Nvcc, compile_device_code
from tqc.codegen.occupancy import Occupancy, occupancy
from tqc.errors import TargetError

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")
_SHARED = re.compile(r"(\d+) bytes smem")
_CONSTANT = re.compile(r"(\d+) bytes cmem\[\d+\]")
_BARRIERS = re.compile(r"used (\d+) barriers")


@dataclass(frozen=True)
class KernelResources:
    """Of one kernel: registers a thread, bytes of each memory, barriers of a block. `shared` is what it declares; what
    a launch adds is not known to the compiler. `constant`: 0 where this ptxas does not say."""

    name: str
    arch: str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    constant: int
    barriers: int

    @property
    def spills(self) -> bool:
        """Whether registers did not suffice and memory took their place."""
        return bool(self.spill_stores or self.spill_loads)

    def occupancy(self, threads: int, dynamic_shared: int = 0) -> Occupancy:
        """With blocks of `threads` threads that are launched with `dynamic_shared` bytes more."""
        return occupancy(self.arch, threads=threads, registers=self.registers, shared=self.shared + dynamic_shared)


def resources_of(source: str, arch: str, nvcc: Nvcc | None = None) -> dict[str, KernelResources]:
    """The kernels of CUDA C++ by name, compiled for `arch`. Raises TargetError if nvcc is missing or rejects it."""
    return parse_resources(compile_device_code(source, arch, nvcc, form="cubin", verbose=True).said)


def parse_resources(said: str) -> dict[str, KernelResources]:
    """The kernels in what `ptxas -v` says, by name. Raises TargetError if it says none or not all of a kernel."""
    kernels = {}
    parts = _ENTRY.split(said)[1:]
    for name, arch, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        spills, used = _SPILLS.search(text), _USED.search(text)
        if spills is None or used is None:
            raise _not_read(f"the lines of {name}", text)
        stack, stores, loads = map(int, spills.groups())
        kernels[name] = KernelResources(
            name=name,
            arch=arch,
            registers=int(used[1]),
            spill_stores=stores,
            spill_loads=loads,
            stack=stack,
            shared=_sum(_SHARED, used[2]),
            constant=_sum(_CONSTANT, used[2]),
            barriers=_sum(_BARRIERS, used[2]),
        )
    if not kernels:
        raise _not_read("a kernel", said)
    return kernels


def _sum(pattern: re.Pattern, text: str) -> int:
    return sum(int(number) for number in pattern.findall(text))


def _not_read(expected: str, said: str) -> TargetError:
    return TargetError(
        "the report of ptxas is not understood",
        expected=f"{expected} as ptxas of CUDA 13.0 writes them",
        found=said.strip()[:500] or "nothing",
    )
