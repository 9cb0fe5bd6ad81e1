"""Size arithmetic with symbols."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import sym, tirx

from tqc.frontend.forward_sizes import evaluate, known, sizes
from tqc.frontend.graph import Node

B, S = tirx.Var("b", "int64"), tirx.Var("s", "int64")


def run(op, *operands, **attrs):
    names = [f"x{n}" if v is not None else "" for n, v in enumerate(operands)]
    return evaluate(Node(op, names, ["y"], attrs), list(operands), 18)


def ints(*values):
    return np.array(values, np.int64)


def same(found, *expected):
    prove = sym.Analyzer().can_prove_equal
    return len(found) == len(expected) and all(prove(a, b) for a, b in zip(found, expected, strict=True))


def test_the_arithmetic_of_a_reshape_target():
    shape = sizes([B, S, 64])
    (heads,) = run("Div", shape[2:], ints(16))
    assert heads == 4
    joined = run("Concat", shape[:1], run("Mul", shape[1:2], ints(2)), ints(-1), axis=0)
    assert same(joined[:2], B, S * 2)
    assert joined[2] == -1
    assert same(run("Gather", shape, ints(1), axis=0), S)
    assert same(run("Slice", shape, ints(1), ints(3), ints(0), None), S, 64)


def test_minus_one_is_no_size():
    shape = sizes([B, S])
    chosen = run("Where", run("Equal", shape, ints(-1, -1)), ints(1, 1), shape)
    assert same(chosen, B, S)


@pytest.mark.parametrize(
    ("op", "operands"),
    [("Equal", (sizes([B]), sizes([S]))), ("Max", (sizes([B]), ints(7))), ("Min", (sizes([B]), ints(7)))],
)
def test_what_depends_on_the_size_is_not_known(op, operands):
    assert run(op, *operands) is None


def test_numbers_are_computed_by_the_reference():
    np.testing.assert_allclose(run("Sqrt", np.array([4, 9], np.float32)), [2, 3])
    assert known(sizes([2, tirx.IntImm("int64", 3)]))
    assert not known(sizes([B]))
