"""wgmma: D = A·B + D of a warpgroup, four warps, with B and perhaps A in shared memory, complete only when waited for.

With g = lane / 4 and t = lane % 4, register r of D [64, n] is in warp w the number at
(16w + g + 8·(r / 2 % 2), 8·(r / 4) + 2t + r % 2); A [64, 16] in registers is that of mma.m16n8k16 in each warp. In
shared memory operands are core matrices, eight rows of 16 bytes, which a descriptor finds: those along M or N `stride`
bytes apart, those along K `leading` bytes; rows run along K, or, transposed, along M or N. The interpreter knows
float16 without swizzle.

What is wanted of a kernel is checked: the warpgroup is together, a wgmma.fence stands before the first product behind a
wait, registers under way are left alone, and what threads wrote to shared memory has a fence.proxy.async of theirs
behind, before a barrier. Until the wait D holds a NaN, so that whoever reads it too early has wrong results; shared
memory is looked at when the product begins and again when it is waited for: nobody may write it in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ptx_decode import Step, count_operands, handles
from ptx_gates import GROUP
from ptx_lanes import WARP, Active
from ptx_mma import matrix_a, multiply
from ptx_operands import Imm, Operand, Vec
from ptx_program import Instruction

if TYPE_CHECKING:
    from ptx_machine import Machine

_POISON = np.uint32(0x7FC0DEAD)
_MASK = 0x3FFF


@dataclass
class Flight:
    """A product that nobody has waited for. index: its lanes; group: the number of its group, for each of them; sums:
    names of the registers of D; inputs: registers of A and what they held; reads: (lanes, addresses) in shared memory.
    """

    instruction: Instruction
    index: np.ndarray
    group: np.ndarray
    sums: list[str]
    inputs: list[tuple[np.ndarray, np.ndarray]]
    reads: list[tuple[np.ndarray, np.ndarray]]

    def take(self, done: np.ndarray) -> Flight:
        """The part of the lanes where `done`."""
        if done.all():
            return self
        inputs = [(array, then[done]) for array, then in self.inputs]
        reads = [
            (lanes[kept], places[kept]) for lanes, places in self.reads for kept in [np.isin(lanes, self.index[done])]
        ]
        return Flight(self.instruction, self.index[done], self.group[done], self.sums, inputs, reads)


class Sum:
    """A register of D. value: what it will hold; products: how many under way will change it, in each lane."""

    def __init__(self, register: np.ndarray) -> None:
        self.register = register
        self.value = np.zeros_like(register)
        self.products = np.zeros(len(register), np.int64)


class Products:
    """fenced: lanes that have passed a wgmma.fence since they last waited; committed: how many groups they closed."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.fenced = np.zeros(machine.lanes.n, bool)
        self.committed = np.zeros(machine.lanes.n, np.int64)
        self.flights: list[Flight] = []
        self.sums: dict[str, Sum] = {}

    def before(self, name: str, index: np.ndarray) -> np.ndarray:
        """What a register holds, or will hold, before a product adds to it, as bits."""
        held = self.sums[name]
        return np.where(held.products[index] > 0, held.value[index], held.register[index])

    def start(self, flight: Flight, values: np.ndarray) -> None:
        """values: the bits of D, [registers, lanes]."""
        for name, value in zip(flight.sums, values, strict=True):
            held = self.sums[name]
            held.value[flight.index] = value
            held.products[flight.index] += 1
            held.register[flight.index] = _POISON
        self.flights.append(flight)

    def wait(self, active: Active, pending: int) -> None:
        """Ends all groups of these lanes but the newest `pending`."""
        mine = np.zeros(self.machine.lanes.n, bool)
        mine[active.index] = True
        left, ended = [], []
        for flight in self.flights:
            done = mine[flight.index] & (flight.group < self.committed[flight.index] - pending)
            ended += [flight.take(done)] if done.any() else []
            left += [] if done.all() else [flight.take(~done)]
        self.flights = left
        for flight in ended:
            self._end(flight)
        self.fenced[active.index] = False

    def _end(self, flight: Flight) -> None:
        for lanes, places in flight.reads:
            read(self.machine, lanes, places, flight.instruction)
        for array, then in flight.inputs:
            self._unchanged(array[flight.index] == then, flight, "an operand")
        for name in flight.sums:
            held, index = self.sums[name], flight.index
            self._unchanged(held.register[index] == _POISON, flight, f"its result {name}")
            held.products[index] -= 1
            last = index[held.products[index] == 0]
            held.register[last] = held.value[last]

    def _unchanged(self, fine: np.ndarray, flight: Flight, what: str) -> None:
        if not fine.all():
            lane = int(flight.index[np.argmin(fine)])
            raise self.machine.fail(flight.instruction, lane, f"{what} was changed before the product was waited for")


def products(machine: Machine) -> Products:
    """Those of the machine, made when first asked for."""
    if not hasattr(machine, "products"):
        machine.products = Products(machine)
    return machine.products


def read(machine: Machine, lanes: np.ndarray, places: np.ndarray, instruction: Instruction) -> np.ndarray:
    """Rows of 16 bytes, float16 [.., 8], that threads wrote and fenced."""
    active = Active.repeated(machine.lanes, lanes)
    words = machine.shared.load(active, places, 4, 4, instruction)
    machine.shared.check_fenced(active, places, 16, instruction)
    return np.ascontiguousarray(words).view(np.float16)


@handles("wgmma")
def wgmma(instruction: Instruction, machine: Machine) -> Step:
    state, parts = products(machine), instruction.parts
    if machine.lanes.padded % GROUP:
        raise instruction.unknown(f"blocks of {machine.lanes.padded} threads have no whole warpgroups")
    if parts == ("fence", "sync", "aligned"):
        return lambda active: state.fenced.__setitem__(active.index, True)
    if parts == ("commit_group", "sync", "aligned"):
        return lambda active: state.committed.__setitem__(active.index, state.committed[active.index] + 1)
    if parts == ("wait_group", "sync", "aligned"):
        count_operands(instruction, 1)
        pending = instruction.operands[0].value
        return lambda active: state.wait(active, pending)
    return _product(instruction, machine, state)


def _product(instruction: Instruction, machine: Machine, state: Products) -> Step:
    """wgmma.mma_async d, a, b, add, 1, 1{, transposed a}, transposed b: nothing is negated."""
    parts, operands = instruction.parts, instruction.operands
    known = ("mma_async", "sync", "aligned", parts[3] if len(parts) == 7 else "", "f32", "f16", "f16")
    shape = known[3].removeprefix("m64n").removesuffix("k16")
    if parts != known or not shape.isdigit() or f"m64n{shape}k16" != known[3]:
        raise instruction.unknown()
    n, from_registers = int(shape), isinstance(operands[1], Vec)
    if n % 8 or not 8 <= n <= 256 or not isinstance(operands[0], Vec) or len(operands[0].items) != n // 2:
        raise instruction.unknown()
    count_operands(instruction, 7 if from_registers else 8)
    flags = [_constant(operand, instruction) for operand in operands[4:]]
    if flags[:2] != [1, 1] or not set(flags[2:]) <= {0, 1}:
        raise instruction.unknown()
    names = [item.name for item in operands[0].items]
    for name, item in zip(names, operands[0].items, strict=True):
        if name not in state.sums:
            state.sums[name] = Sum(machine.write(item, "b32", instruction))
    b, add = machine.read(operands[2], "u64", instruction), machine.read(operands[3], "pred", instruction)
    if from_registers:
        a = [machine.read(item, "b32", instruction) for item in operands[1].items]
    else:
        a = machine.read(operands[1], "u64", instruction)

    def step(active: Active) -> None:
        if not active.take(state.fenced).all():
            lane = int(active.index[np.argmin(active.take(state.fenced))])
            raise machine.fail(instruction, lane, "no wgmma.fence before the first product behind a wait")
        groups, inputs, reads = active.index.reshape(-1, GROUP), [], []
        if from_registers:
            inputs = [(register, register[active.index]) for register in a]
            words = np.stack([then for _, then in inputs]).reshape(4, -1, WARP)
            left = matrix_a(words, "f16").reshape(-1, 64, 16)
        else:
            left, where = _operand(groups, a, 64, bool(flags[2]), instruction, machine)
            reads.append(where)
        right, where = _operand(groups, b, n, bool(flags[-1]), instruction, machine)
        reads.append(where)
        adds = _same(groups, add, instruction, machine)
        held = np.stack([state.before(name, active.index) for name in names]).view(np.float32)
        sums = np.where(adds[:, None, None], _matrix(held, n), np.float32(0))
        values = _registers(multiply(left, right.swapaxes(1, 2), sums, 8), n).view(np.uint32)
        flight = Flight(instruction, active.index, state.committed[active.index], names, inputs, reads)
        state.start(flight, values)

    return step


def _constant(operand: Operand, instruction: Instruction) -> int:
    if not isinstance(operand, Imm):
        raise instruction.unknown("a constant is expected")
    return operand.value


def _same(groups: np.ndarray, values: np.ndarray, instruction: Instruction, machine: Machine) -> np.ndarray:
    """The value of each warpgroup. Raises PtxError if its lanes disagree."""
    found = values[groups]
    wrong = found != found[:, :1]
    if wrong.any():
        lane = int(groups[wrong][0])
        raise machine.fail(instruction, lane, "the lanes of the warpgroup have different descriptors or predicates")
    return found[:, 0]


def _operand(
    groups: np.ndarray,
    descriptors: np.ndarray,
    outer: int,
    transposed: bool,
    instruction: Instruction,
    machine: Machine,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """float64 [warpgroups, outer, 16], and who read what."""
    found = _same(groups, descriptors, instruction, machine)
    if (found & ~np.uint64(_MASK | _MASK << 16 | _MASK << 32)).any():
        raise machine.fail(instruction, int(groups[0, 0]), "the interpreter knows no swizzle and no base offset")
    start, leading, stride = (((found >> np.uint64(at)) & np.uint64(_MASK)).astype(np.int64) << 4 for at in (0, 16, 32))
    core = np.arange(outer // 8)[:, None, None]
    half, row = np.arange(2)[None, :, None], np.arange(8)[None, None, :]
    places = (
        start[:, None, None, None] + core * stride[:, None, None, None] + half * leading[:, None, None, None] + 16 * row
    )
    flat = places.reshape(len(found), -1)
    lanes = np.ascontiguousarray(groups[:, np.arange(flat.shape[1]) % GROUP]).reshape(-1)
    numbers = read(machine, lanes, flat.reshape(-1), instruction).reshape(len(found), outer // 8, 2, 8, 8)
    # [core, half, row, number]: rows are M or N and numbers K, or the other way round
    order = (0, 1, 4, 2, 3) if transposed else (0, 1, 3, 2, 4)
    return numbers.transpose(order).reshape(len(found), outer, 16).astype(np.float64), (lanes, flat.reshape(-1))


def _matrix(registers: np.ndarray, n: int) -> np.ndarray:
    """[n / 2, lanes] → [warpgroups, 64, n]."""
    split = registers.reshape(n // 8, 2, 2, -1, 4, 8, 4)  # eight, half, odd, warpgroup, warp, g, t
    return split.transpose(3, 4, 1, 5, 0, 6, 2).reshape(-1, 64, n)


def _registers(matrix: np.ndarray, n: int) -> np.ndarray:
    """The inverse of `_matrix`."""
    split = matrix.reshape(-1, 4, 2, 8, n // 8, 4, 2)
    return np.ascontiguousarray(split.transpose(4, 2, 6, 0, 1, 3, 5)).reshape(n // 2, -1)
