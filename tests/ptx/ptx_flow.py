"""What can be said of a kernel without running it: basic blocks, registers that may be read before they are written.

Blocks stand in the order of the text, so that the smallest block number is the smallest program counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ptx_operands import Both, Mem, Not, Operand, Reg, Sym, Vec
from ptx_program import Entry, Instruction

_NO_RESULT = {"bra", "brx", "nanosleep", "st", "red", "ret", "exit", "trap", "setmaxnreg", "prefetch", "call"}
_WARP = {"shfl", "vote", "match", "redux", "elect", "mma", "ldmatrix", "stmatrix", "movmatrix", "setmaxnreg", "wgmma"}


@dataclass
class Block:
    """Instructions that run one after the other. target: where its branch goes, `number` + 1 where it does not."""

    number: int
    instructions: list[Instruction]
    successors: list[int] = field(default_factory=list)

    @property
    def last(self) -> Instruction:
        return self.instructions[-1]


def is_warp_wide(instruction: Instruction) -> bool:
    """Lanes of a warp meet here: it starts a block, where those that come first wait."""
    return instruction.name in _WARP or (instruction.name in ("bar", "barrier") and "warp" in instruction.parts)


def is_barrier(instruction: Instruction) -> bool:
    """Threads of a block meet here: it ends a block."""
    return instruction.name in ("bar", "barrier") and "warp" not in instruction.parts


def is_wait(instruction: Instruction) -> bool:
    """A wait for an mbarrier: it starts a block too."""
    return instruction.name == "mbarrier" and instruction.parts[0] in ("test_wait", "try_wait")


def ends_block(instruction: Instruction) -> bool:
    return instruction.name in ("bra", "brx", "ret", "exit", "trap") or is_barrier(instruction)


def blocks_of(entry: Entry) -> list[Block]:
    """Raises PtxError for a branch to a label that is not there."""
    code = entry.instructions
    starts = {0, *(at for at in entry.labels.values() if at < len(code))}
    for i, instruction in enumerate(code):
        if ends_block(instruction) and i + 1 < len(code):
            starts.add(i + 1)
        if is_warp_wide(instruction) or is_wait(instruction):
            starts.add(i)
    ordered = sorted(starts)
    number = {start: i for i, start in enumerate(ordered)}
    blocks = [
        Block(i, code[start:stop])
        for i, (start, stop) in enumerate(zip(ordered, [*ordered[1:], len(code)], strict=True))
    ]
    for block in blocks:
        last = block.last
        if last.name == "bra":
            block.successors.append(number[label_at(entry, last, last.operands[0])])
        elif last.name == "brx":
            table = entry.tables.get(last.operands[1].name)
            if table is None:
                raise last.unknown("there is no such table of targets")
            block.successors += [number[label_at(entry, last, Sym(name))] for name in table]
        if last.guard or last.name not in ("bra", "brx", "ret", "exit", "trap"):
            if block.number + 1 == len(blocks):
                raise last.unknown("the kernel runs on beyond its last instruction")
            block.successors.append(block.number + 1)
    return blocks


def label_at(entry: Entry, instruction: Instruction, label: Operand) -> int:
    if not isinstance(label, Sym) or entry.labels.get(label.name, len(entry.instructions)) >= len(entry.instructions):
        raise instruction.unknown("there is no such label")
    return entry.labels[label.name]


def registers_in(operand: Operand) -> Iterator[str]:
    match operand:
        case Reg(name):
            yield name
        case Not(of):
            yield of.name
        case Mem(Reg(name), _):
            yield name
        case Vec(items):
            for item in items:
                yield from registers_in(item)
        case Both(first, second):
            yield from registers_in(first)
            yield from registers_in(second)


def symbols_in(operand: Operand) -> Iterator[str]:
    match operand:
        case Sym(name) | Mem(Sym(name), _):
            yield name
        case Vec(items):
            for item in items:
                yield from symbols_in(item)


def results(instruction: Instruction) -> tuple[str, ...]:
    """Registers that it writes."""
    if not instruction.operands or instruction.name in _NO_RESULT or isinstance(instruction.operands[0], Mem | Not):
        return ()
    if instruction.name in ("bar", "barrier") and "red" not in instruction.parts:
        return ()
    return tuple(registers_in(instruction.operands[0]))


def arguments(instruction: Instruction) -> Iterator[str]:
    """Registers that it reads."""
    if instruction.guard:
        yield instruction.guard[0]
    operands = instruction.operands[1:] if results(instruction) else instruction.operands
    for operand in operands:
        yield from registers_in(operand)


def doubtful_registers(entry: Entry, blocks: list[Block]) -> set[str]:
    """Registers that some path through the text reads before it writes them: these are watched at run time."""
    everything = frozenset(name for instruction in entry.instructions for name in results(instruction))
    before: list[frozenset[str] | None] = [None] * len(blocks)
    before[0] = frozenset()
    made = [
        frozenset(name for instruction in block.instructions if not instruction.guard for name in results(instruction))
        for block in blocks
    ]
    todo = [0]
    while todo:
        block = blocks[todo.pop()]
        after = before[block.number] | made[block.number]
        for successor in block.successors:
            known = after if before[successor] is None else before[successor] & after
            if known != before[successor]:
                before[successor] = known
                todo.append(successor)
    doubtful: set[str] = set()
    for block in blocks:
        known = set(before[block.number] if before[block.number] is not None else everything)
        for instruction in block.instructions:
            doubtful |= {name for name in arguments(instruction) if name not in known}
            if not instruction.guard:
                known.update(results(instruction))
    return {name for name in doubtful if entry.register_kind(name)}


def stored_params(entry: Entry) -> set[str] | None:
    """Parameters whose addresses may be stored to; None if an address comes from elsewhere than parameters.

    Without regard to the order of instructions: whatever goes into an address, through any registers, is counted.
    """
    sources: dict[str, set[str]] = {}
    feeds: dict[str, set[str]] = {}
    for instruction in entry.instructions:
        if instruction.name == "ld":
            memory = instruction.operands[1]
            for name in results(instruction):
                if isinstance(memory.base, Sym) and "param" in instruction.parts:
                    sources.setdefault(name, set()).add(memory.base.name)
                elif instruction.parts[-1] in ("u64", "b64", "s64"):
                    sources.setdefault(name, set()).add("?")
            continue
        for name in results(instruction):
            feeds.setdefault(name, set()).update(arguments(instruction))
    stored: set[str] = set()
    for instruction in entry.instructions:
        if instruction.name in ("st", "red", "atom") and not {"shared", "shared::cta", "local"} & set(
            instruction.parts[:2]
        ):
            memory = next(operand for operand in instruction.operands if isinstance(operand, Mem))
            seen, todo = set(), list(registers_in(memory))
            while todo:
                name = todo.pop()
                if name not in seen:
                    seen.add(name)
                    stored |= sources.get(name, set())
                    todo += feeds.get(name, ())
            if isinstance(memory.base, Sym):
                stored.add("?")
    return None if "?" in stored else stored
