"""mov with packing and unpacking, cvta, and what has no effect on a machine without caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, copy, handles, kind_of, lanewise
from ptx_lanes import Active
from ptx_operands import Imm, Mem, Reg, Sink, Sym, Vec
from ptx_program import Instruction
from ptx_types import KINDS, RAW

if TYPE_CHECKING:
    from ptx_machine import Machine

_KINDS = ("pred", *(f"{sign}{bits}" for sign in "bus" for bits in (16, 32, 64)), "f16", "bf16", "f16x2", "f32", "f64")
_CLOCKS = ("%clock", "%clock64", "%globaltimer", "%globaltimer_lo")


@handles("mov")
def move(instruction: Instruction, machine: Machine) -> Step:
    kind = kind_of(instruction, *_KINDS)
    out, source = instruction.operands
    if isinstance(source, Reg) and source.name in _CLOCKS:
        return _read_clock(machine.write(out, kind, instruction), machine)
    if isinstance(out, Vec):
        return _unpack(out, source, kind, instruction, machine)
    if isinstance(source, Vec):
        return _pack(out, source, kind, instruction, machine)
    kind = kind if kind == "pred" else f"b{8 * KINDS[kind].size}" if not isinstance(source, Imm) else kind
    return copy(machine.write(out, kind, instruction), machine.read(source, kind, instruction))


def _read_clock(out: np.ndarray, machine: Machine) -> Step:
    """Some time that passes: how often it was asked for."""

    def step(active: Active) -> None:
        machine.ticks += 1
        out[active.index] = machine.ticks

    return step


def _unpack(out: Vec, source, kind: str, instruction: Instruction, machine: Machine) -> Step:
    size = KINDS[kind].size // len(out.items)
    whole = machine.read(source, kind, instruction)
    parts = [None if isinstance(item, Sink) else machine.write(item, f"b{8 * size}", instruction) for item in out.items]

    def step(active: Active) -> None:
        cut = np.ascontiguousarray(active.take(whole)).view(RAW[size]).reshape(-1, len(parts))
        for i, part in enumerate(parts):
            if part is not None:
                part[active.index] = cut[:, i]

    return step


def _pack(out: Reg, source: Vec, kind: str, instruction: Instruction, machine: Machine) -> Step:
    size = KINDS[kind].size // len(source.items)
    parts = [machine.read(item, f"b{8 * size}", instruction) for item in source.items]
    raw = RAW[KINDS[kind].size]
    written = machine.write(out, f"b{8 * KINDS[kind].size}", instruction)
    return lanewise(lambda *x: np.stack(x, axis=1).view(raw)[:, 0], written, *parts)


@handles("cvta")
def convert_address(instruction: Instruction, machine: Machine) -> Step:
    """To a generic address, or with .to from one: those of shared and local memory lie in windows of their own."""
    parts = list(instruction.parts)
    kind = parts.pop()
    back = parts[0] == "to"
    space = parts[-1].removesuffix("::cta")
    windows = machine.launch.windows
    if kind not in ("u64", "u32") or space not in windows or len(parts) > 1 + back:
        raise instruction.unknown()
    window = np.uint64(windows[space])
    out, source = instruction.operands
    if kind == "u32":
        if window:
            raise instruction.unknown("generic addresses have 64 bits")
        return copy(machine.write(out, kind, instruction), machine.read(source, kind, instruction))
    if isinstance(source, Mem):
        raise instruction.unknown()
    array = machine.read(source, kind, instruction)
    function = (lambda a: a - window) if back else (lambda a: a + window)
    return lanewise(function, machine.write(out, kind, instruction), array)


@handles("isspacep")
def is_in_space(instruction: Instruction, machine: Machine) -> Step:
    space = instruction.parts[0].removesuffix("::cta")
    windows = machine.launch.windows
    if space not in ("shared", "local", "global"):
        raise instruction.unknown()
    out, source = instruction.operands
    shared, local = np.uint64(windows["shared"]), np.uint64(windows["local"])

    def function(address: np.ndarray) -> np.ndarray:
        inside = {"shared": (address >= shared) & (address < local), "local": address >= local}
        return inside.get(space, address < shared)

    return lanewise(function, machine.write(out, "pred", instruction), machine.read(source, "u64", instruction))


@handles("createpolicy")
def create_policy(instruction: Instruction, machine: Machine) -> Step:
    """Some value: policies of the second cache change nothing here."""
    out = machine.write(instruction.operands[0], "b64", instruction)
    return copy(out, machine.read(Imm(0x1F00), "b64", instruction))


@handles("membar", "fence", "prefetch", "prefetchu", "nanosleep", "griddepcontrol", "discard", "applypriority")
def nothing(instruction: Instruction, machine: Machine) -> Step:
    """Instructions run one after the other and see what those before them wrote; but see `SharedMemory.fence`."""
    for operand in instruction.operands:
        if isinstance(operand, Sym):
            raise instruction.unknown()
    if instruction.name == "fence" and instruction.parts[:2] == ("proxy", "async"):
        return machine.shared.fence
    return lambda active: None


@handles("setmaxnreg")
def set_registers(instruction: Instruction, machine: Machine) -> Step:
    count = instruction.operands[0].value
    if set(instruction.parts) - {"inc", "dec", "sync", "aligned", "u32"} or not 24 <= count <= 256 or count % 8:
        raise instruction.unknown()
    return lambda active: None
