"""ld and st."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_address import Spaces, addresses, has_no_effect, space_of
from ptx_decode import Step, handles
from ptx_lanes import Active
from ptx_operands import Imm, Mem, Operand, Reg, Sink, Sym, Vec
from ptx_program import Instruction
from ptx_types import KINDS, RAW

if TYPE_CHECKING:
    from ptx_machine import Machine

_VECTORS = {"v2": 2, "v4": 4, "v8": 8}


def _parts(instruction: Instruction) -> tuple[str, str, int]:
    """Space, type and length of the vector."""
    parts = list(instruction.parts)
    kind = parts.pop()
    space = space_of(parts)
    count = next((_VECTORS[part] for part in parts if part in _VECTORS), 1)
    left = [part for part in parts if part not in _VECTORS and not has_no_effect(part)]
    if left or kind not in KINDS or kind == "pred" or count * KINDS[kind].size > 16:
        raise instruction.unknown()
    return space, kind, count


@handles("ld", "ldu")
def load(instruction: Instruction, machine: Machine) -> Step:
    space, kind, count = _parts(instruction)
    out, memory = instruction.operands[:2]
    items = out.items if isinstance(out, Vec) else (out,)
    if len(items) != count:
        raise instruction.unknown(f"{count} registers are expected")
    if space == "param":
        return _load_param(items, memory, kind, instruction, machine)
    size = KINDS[kind].size
    place = addresses(memory, instruction, machine)
    spaces = Spaces(machine, instruction, space)
    written = [None if isinstance(item, Sink) else _loaded(item, kind, instruction, machine) for item in items]
    cached = "nc" in instruction.parts
    learns = "acquire" in instruction.parts

    def step(active: Active) -> None:
        address = place(active)
        if learns:
            _touch_order(machine, active, address, learn=True)
        values = spaces.load(active, address, size, count, cached=cached)
        if KINDS[kind].signed:
            values = values.view(KINDS[kind].dtype)
        pick = active.pick
        for i, array in enumerate(written):
            if array is not None:
                column = values[:, i] if count > 1 else values
                if pick is None:
                    array[...] = column
                else:
                    array[pick] = column

    return step


def _touch_order(machine: Machine, active: Active, address: np.ndarray, *, learn: bool) -> None:
    blocks = active.take(machine.lanes.gid) // machine.lanes.padded
    machine.launch.order.touch(blocks, address, publish=not learn, learn=learn)


def _loaded(operand: Operand, kind: str, instruction: Instruction, machine: Machine) -> np.ndarray:
    """The register that takes values of this type: if it is wider, they are extended by zeros or their sign."""
    raw = machine.registers.raw(operand, instruction)
    size = KINDS[kind].size
    if raw.dtype.itemsize < size or raw.dtype == np.bool_ or (KINDS[kind].floating and raw.dtype.itemsize != size):
        raise instruction.unknown(f"the register {operand.name} is not as wide as .{kind}")
    return raw.view(f"i{raw.dtype.itemsize}") if KINDS[kind].signed else raw


def _load_param(
    items: tuple[Operand, ...], memory: Operand, kind: str, instruction: Instruction, machine: Machine
) -> Step:
    """Parameters are the same in all lanes."""
    if not isinstance(memory, Mem) or not isinstance(memory.base, Sym):
        raise instruction.unknown("the interpreter knows parameters by their names only")
    size, data = KINDS[kind].size, machine.launch.params
    first = machine.launch.address_of(memory.base.name, instruction) + memory.offset
    if first % size or first < 0 or first + size * len(items) > len(data):
        raise instruction.unknown("the parameter is outside of the parameters, or not aligned")
    written = [_loaded(item, kind, instruction, machine) for item in items]
    values = np.frombuffer(data, RAW[size], len(items), first).view(
        KINDS[kind].dtype if KINDS[kind].signed else RAW[size]
    )

    def step(active: Active) -> None:
        for array, value in zip(written, values, strict=True):
            array[active.index if active.pick is not None else ...] = value

    return step


@handles("st")
def store(instruction: Instruction, machine: Machine) -> Step:
    space, kind, count = _parts(instruction)
    memory, value = instruction.operands[:2]
    items = value.items if isinstance(value, Vec) else (value,)
    if len(items) != count or space in ("param", "const"):
        raise instruction.unknown()
    size = KINDS[kind].size
    place = addresses(memory, instruction, machine)
    spaces = Spaces(machine, instruction, space)
    sources = [_stored(item, kind, instruction, machine) for item in items]
    tells = "release" in instruction.parts

    def step(active: Active) -> None:
        address = place(active)
        if count == 1:
            values = active.take(sources[0])
            if values.dtype.itemsize != size:
                values = values.astype(RAW[size])
        else:
            values = np.empty((active.count, count), RAW[size])
            for i, source in enumerate(sources):
                values[:, i] = active.take(source)
        spaces.store(active, address, values)
        if tells:
            _touch_order(machine, active, address, learn=False)

    return step


def _stored(operand: Operand, kind: str, instruction: Instruction, machine: Machine) -> np.ndarray:
    """The bits to store; of a register that is wider the lowest."""
    size = KINDS[kind].size
    if not isinstance(operand, Reg):
        return machine.read(operand, kind if isinstance(operand, Imm) else f"b{8 * size}", instruction).view(RAW[size])
    raw = machine.registers.raw(operand, instruction)
    if raw.dtype.itemsize < size or raw.dtype == np.bool_ or (KINDS[kind].floating and raw.dtype.itemsize != size):
        raise instruction.unknown(f"the register {operand.name} is not as wide as .{kind}")
    return raw
