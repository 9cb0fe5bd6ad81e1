"""The loops of machine code, found in its flow graph, and the one among them that reads coded pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tqc.codegen.sass import CLASSES, Instruction, Kernel, count
from tqc.errors import TargetError

_ENDS = ("EXIT", "RET")


@dataclass(frozen=True)
class Loop:
    """`start`: the index of its first instruction; `body`: all of it, inner loops and code that lies apart included."""

    start: int
    body: Sequence[Instruction]


def page_loop(kernel: Kernel) -> Loop:
    """The innermost loop that decodes pages: of those that copy to shared memory, or else of all, the one with the
    most products; of equal ones the shortest. Raises TargetError if no loop of the kernel multiplies."""
    products = CLASSES["tensor"]
    found = [loop for loop in loops(kernel) if count(loop.body, *products)]
    if not found:
        raise TargetError("no loop of the kernel multiplies on tensor cores", where=kernel.name)
    copying = [loop for loop in found if count(loop.body, "LDGSTS")] or found
    return min(copying, key=lambda loop: (-count(loop.body, *products), len(loop.body)))


def loops(kernel: Kernel) -> list[Loop]:
    """The natural loops, by their starts: a jump back to a block that every way from the start leads through, and all
    blocks from which that jump is reached without passing there. A jump back into other code is none."""
    blocks = _blocks(kernel)
    ways = _ways(kernel, blocks)
    above = _dominators(ways)
    bodies: dict[int, set[int]] = {}
    for at, following in enumerate(ways):
        for to in following:
            if to in above[at]:
                bodies.setdefault(to, {to}).update(_reaching(ways, at, to))
    return [
        Loop(blocks[head].start, [kernel.instructions[i] for block in sorted(body) for i in blocks[block]])
        for head, body in sorted(bodies.items())
    ]


def _blocks(kernel: Kernel) -> list[range]:
    """Runs of instructions that are entered at the first and left at the last."""
    size = len(kernel.instructions)
    starts = {0, *kernel.labels.values()}
    starts |= {at + 1 for at, x in enumerate(kernel.instructions) if x.target or x.name in _ENDS}
    cut = [*sorted(start for start in starts if start < size), size]
    return [range(first, end) for first, end in pairwise(cut)]


def _ways(kernel: Kernel, blocks: list[range]) -> list[list[int]]:
    """The blocks to which each block leads."""
    number = {block.start: i for i, block in enumerate(blocks)}
    found = []
    for i, block in enumerate(blocks):
        last, to = kernel.instructions[block[-1]], []
        if last.target:
            to.append(number[kernel.labels[last.target]])
        if (last.conditional or not (last.target or last.name in _ENDS)) and i + 1 < len(blocks):
            to.append(i + 1)
        found.append(to)
    return found


def _dominators(ways: list[list[int]]) -> list[set[int]]:
    """Of each block: the blocks that every way from the first one leads through, itself included; of blocks that are
    not reached, none."""
    reached, ahead = {0}, [0]
    while ahead:
        for to in ways[ahead.pop()]:
            if to not in reached:
                reached.add(to)
                ahead.append(to)
    before: dict[int, list[int]] = {at: [] for at in reached}
    for at in reached:
        for to in ways[at]:
            before[to].append(at)
    above = [set(reached) if at in reached else set() for at in range(len(ways))]
    above[0] = {0}
    changed = True
    while changed:
        changed = False
        for at in sorted(reached - {0}):
            now = {at}.union(set.intersection(*(above[source] for source in before[at])))
            if now != above[at]:
                above[at], changed = now, True
    return above


def _reaching(ways: list[list[int]], end: int, head: int) -> set[int]:
    """The blocks from which `end` is reached without passing `head`."""
    found, ahead = {end}, [end]
    while ahead:
        to = ahead.pop()
        if to == head:
            continue
        for at, following in enumerate(ways):
            if to in following and at not in found and at != head:
                found.add(at)
                ahead.append(at)
    return found
