"""What the lanes of a warp do together: shuffles, votes, matches, reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ptx_bits import read_predicate
from ptx_decode import Step, count_operands, handles, kind_of
from ptx_lanes import WARP, Active
from ptx_operands import Both, Sink
from ptx_program import Instruction
from ptx_types import KINDS

if TYPE_CHECKING:
    from ptx_machine import Machine


@handles("shfl")
def shuffle(instruction: Instruction, machine: Machine) -> Step:
    """shfl.sync.mode.b32 d{|p}, a, b, c, mask. A lane whose source is out of its segment keeps its own value."""
    sync, mode, kind = instruction.parts
    count_operands(instruction, 5)
    if sync != "sync" or mode not in ("up", "down", "bfly", "idx") or kind != "b32":
        raise instruction.unknown()
    out, a, b, c, mask = instruction.operands
    first, second = (out.first, out.second) if isinstance(out, Both) else (out, Sink())
    written = None if isinstance(first, Sink) else machine.write(first, "b32", instruction)
    inside = None if isinstance(second, Sink) else machine.write(second, "pred", instruction)
    value, by, clamp, members = (machine.read(operand, "b32", instruction) for operand in (a, b, c, mask))
    lane_of = np.arange(machine.lanes.n) % WARP

    def step(active: Active) -> None:
        lane = lane_of[active.index]
        delta, limits = (active.take(x).astype(np.int64) for x in (by, clamp))
        segment, bound = (limits >> 8) & 31, limits & 31
        delta &= 31
        top = (lane & segment) | (bound & ~segment)
        bottom = lane & segment
        if mode == "up":
            source = lane - delta
            valid = source >= top
        elif mode == "down":
            source = lane + delta
            valid = source <= top
        elif mode == "bfly":
            source = lane ^ delta
            valid = source <= top
        else:
            source = bottom | (delta & ~segment)
            valid = source <= top
        source = np.where(valid, source, lane)
        present = (active.bits[active.index // WARP] >> source.astype(np.uint32)) & 1
        named = (active.take(members) >> source.astype(np.uint32)) & 1
        if not (present & named).all():
            at = int(np.argmin(present & named))
            raise machine.fail(
                instruction, int(active.index[at]), f"takes from lane {source[at]}, which does not take part"
            )
        taken = value[active.index - lane + source]
        if written is not None:
            written[active.index] = taken
        if inside is not None:
            inside[active.index] = valid

    return step


def _votes(active: Active, chosen: np.ndarray) -> np.ndarray:
    """The mask of lanes of each active lane's warp for which `chosen` holds, uint32 [active lanes]."""
    flags = np.zeros(active.lanes.n, np.uint8)
    flags[active.index] = chosen
    packed = np.packbits(flags.reshape(-1, WARP), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint32).reshape(-1)[active.index // WARP]


def _present(active: Active, members: np.ndarray) -> np.ndarray:
    """The masks without lanes that have exited."""
    return active.take(members) & active.bits[active.index // WARP]


def _named(members: np.ndarray) -> np.ndarray:
    """Masks as bool [.., 32]."""
    return ((members[:, None] >> np.arange(WARP, dtype=np.uint32)) & 1) != 0


@handles("vote")
def vote(instruction: Instruction, machine: Machine) -> Step:
    """vote.sync.{all,any,uni}.pred p, q, mask; vote.sync.ballot.b32 d, q, mask."""
    sync, mode, kind = instruction.parts
    count_operands(instruction, 3)
    if sync != "sync" or (mode, kind) not in {("all", "pred"), ("any", "pred"), ("uni", "pred"), ("ballot", "b32")}:
        raise instruction.unknown()
    out, q, mask = instruction.operands
    written = machine.write(out, kind, instruction)
    votes, negated = read_predicate(q, machine, instruction)
    members = machine.read(mask, "b32", instruction)

    def step(active: Active) -> None:
        mine = _present(active, members)
        ballot = _votes(active, active.take(votes) ^ negated) & mine
        results = {"ballot": ballot, "all": ballot == mine, "any": ballot != 0, "uni": (ballot == mine) | (ballot == 0)}
        written[active.index] = results[mode]

    return step


@handles("activemask")
def active_mask(instruction: Instruction, machine: Machine) -> Step:
    """The lanes that run together just now."""
    written = machine.write(instruction.operands[0], kind_of(instruction, "b32"), instruction)

    def step(active: Active) -> None:
        written[active.index] = active.bits[active.index // WARP]

    return step


@handles("match")
def match(instruction: Instruction, machine: Machine) -> Step:
    """match.any.sync d, a, mask: lanes with the same value; match.all.sync d{|p}: the mask if all have the same."""
    mode, sync, kind = instruction.parts
    if sync != "sync" or mode not in ("any", "all") or kind not in ("b32", "b64"):
        raise instruction.unknown()
    out, a, mask = instruction.operands
    first, second = (out.first, out.second) if isinstance(out, Both) else (out, Sink())
    written = None if isinstance(first, Sink) else machine.write(first, "b32", instruction)
    same = None if isinstance(second, Sink) else machine.write(second, "pred", instruction)
    value, members = machine.read(a, kind, instruction), machine.read(mask, "b32", instruction)

    def step(active: Active) -> None:
        index, mine = active.index, _present(active, members)
        start = index - index % WARP
        around = start[:, None] + np.arange(WARP)
        equal = (value[around] == value[index][:, None]) & _named(mine)
        found = (equal * (np.uint64(1) << np.arange(WARP, dtype=np.uint64))).sum(axis=1).astype(np.uint32)
        if mode == "all":
            everybody = found == mine
            found = np.where(everybody, mine, np.uint32(0))
            if same is not None:
                same[index] = everybody
        if written is not None:
            written[index] = found

    return step


_REDUCTIONS = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}


@handles("redux")
def reduce(instruction: Instruction, machine: Machine) -> Step:
    """redux.sync.op.type d, a, mask."""
    sync, operation, kind = instruction.parts
    if sync != "sync" or operation not in _REDUCTIONS or kind not in ("u32", "s32", "b32"):
        raise instruction.unknown()
    out, a, mask = instruction.operands
    written, value = machine.write(out, kind, instruction), machine.read(a, kind, instruction)
    members = machine.read(mask, "b32", instruction)
    dtype = KINDS[kind].dtype
    neutral = {"min": np.iinfo(dtype).max, "max": np.iinfo(dtype).min, "and": np.array(-1).astype(dtype)}.get(
        operation, 0
    )

    def step(active: Active) -> None:
        index, mine = active.index, _present(active, members)
        around = (index - index % WARP)[:, None] + np.arange(WARP)
        values = np.where(_named(mine), value[around], dtype.type(neutral))
        written[index] = _REDUCTIONS[operation].reduce(values, axis=1, dtype=dtype)

    return step


@handles("elect")
def elect(instruction: Instruction, machine: Machine) -> Step:
    """elect.sync d|p, mask: the lowest lane of the mask is chosen."""
    if instruction.parts != ("sync",):
        raise instruction.unknown()
    out, mask = instruction.operands
    first, second = (out.first, out.second) if isinstance(out, Both) else (out, Sink())
    written = None if isinstance(first, Sink) else machine.write(first, "b32", instruction)
    chosen = None if isinstance(second, Sink) else machine.write(second, "pred", instruction)
    members = machine.read(mask, "b32", instruction)

    def step(active: Active) -> None:
        mine = _present(active, members).astype(np.int64)
        leader = np.log2(mine & -mine).astype(np.int64)
        if written is not None:
            written[active.index] = leader
        if chosen is not None:
            chosen[active.index] = active.index % WARP == leader

    return step


@handles("bar", "barrier")
def warp_barrier(instruction: Instruction, machine: Machine) -> Step:
    """bar.warp.sync mask: what its lanes did before is over for all of them.

    Barriers of the block are no steps of a basic block: they end it.
    """
    if instruction.parts != ("warp", "sync"):
        raise instruction.unknown()
    members = machine.read(instruction.operands[0], "b32", instruction)

    def step(active: Active) -> None:
        masks = active.take(members)
        for mask in np.unique(masks):
            group = active.among(masks == mask)
            machine.clocks.meet_in_warps(group)
        machine.progress += 1

    return step
