from __future__ import annotations

import pytest

from tqc.codegen.sass import Instruction, Kernel
from tqc.codegen.sass_loops import loops, page_loop
from tqc.errors import TargetError


def kernel(*lines: str) -> Kernel:
    """`name`, `name -> label` for a branch, `name ?-> label` for one that is conditional, `label:`."""
    instructions, labels = [], {}
    for line in lines:
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif "->" in line:
            name, target = line.split("->")
            instructions.append(Instruction(name.strip(" ?"), target.strip(), "?" in name))
        else:
            instructions.append(Instruction(line))
    return Kernel("kernel", tuple(instructions), labels)


def found(one: Kernel) -> list[tuple[int, list[str]]]:
    return [(loop.start, [x.full for x in loop.body]) for loop in loops(one)]


def test_a_loop_in_a_loop() -> None:
    one = kernel("A", "outer:", "B", "inner:", "C", "BRA ?-> inner", "D", "BRA ?-> outer", "EXIT")
    assert found(one) == [(1, ["B", "C", "BRA", "D", "BRA"]), (2, ["C", "BRA"])]


def test_code_that_lies_apart_belongs_to_the_loop_it_returns_to() -> None:
    one = kernel("A", "top:", "B", "BRA ?-> far", "back:", "C", "BRA ?-> top", "EXIT", "far:", "D", "BRA -> back")
    assert found(one) == [(1, ["B", "BRA", "C", "BRA", "D", "BRA"])]


def test_a_jump_back_into_the_middle_is_no_loop() -> None:
    one = kernel("BRA ?-> slow", "join:", "A", "EXIT", "slow:", "B", "BRA -> join", "end:", "BRA -> end")
    assert found(one) == []


def test_the_loop_of_pages_copies_and_multiplies_most() -> None:
    small = ["HMMA", "LDGSTS", "BRA ?-> a"]
    coded = ["HMMA", "HMMA", "LDGSTS", "BRA ?-> b"]
    exact = ["HMMA", "HMMA", "HMMA", "BRA ?-> c"]
    one = kernel("a:", *small, "b:", *coded, "c:", *exact, "EXIT")
    assert page_loop(one).start == 3
    two = kernel("a:", "HMMA", "BRA ?-> a", "c:", *exact, "d:", *exact[:-1], "X", "BRA ?-> d", "EXIT")
    assert page_loop(two).start == 2
    with pytest.raises(TargetError, match="tensor cores"):
        page_loop(kernel("a:", "FFMA", "BRA ?-> a", "EXIT"))
