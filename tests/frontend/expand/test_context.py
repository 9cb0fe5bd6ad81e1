"""What an expansion knows of shapes, and the names it gives."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.weights import ArrayTensor, Weight

RNG = np.random.default_rng(0)


@pytest.fixture
def x(bench):
    """An expansion over token ids [2, 3] and a flat tensor [2, 3, 8]; `w` is a weight [8, 12]."""
    made = bench(
        {"ids": np.ones((2, 3), np.int64), "h": np.ones((2, 3, 8), np.float32)}, {"b": np.ones(12, np.float32)}
    )
    array = RNG.standard_normal((8, 12), np.float32)
    made.graph.weights["w"] = Weight("w", (8, 12), "float32", ArrayTensor(array), "w")
    made.graph.types["w"] = "float32"
    return made.expansion


def test_sizes_follow_the_operations(x):
    product = x.add("Add", ["b", x.add("MatMul", ["h", "w"])])
    turned = x.add("Transpose", [product], attrs={"perm": [0, 2, 1]})
    rows = x.add("Gather", ["w", "ids"])
    split = x.add("Reshape", [product, x.ints(0, 0, 3, 4)])
    normed = x.add("RMSNorm", [split, "b"], domain="tqc")
    dynamic = x.add("Reshape", [product, x.add("Concat", [x.add("Shape", ["ids"]), x.ints(4)], attrs={"axis": 0})])
    found = {t: (x.rank(t), x.width(t)) for t in (product, turned, rows, split, normed, dynamic, "h", "w", "?")}
    assert list(found.values()) == [
        (3, 12),
        (3, None),
        (3, 12),
        (4, 4),
        (4, 4),
        (None, 4),
        (3, 8),
        (2, 12),
        (None, None),
    ]


@pytest.mark.parametrize(("axis", "widths"), [(-1, [5, 3]), (2, [5, 3]), (1, [None, None])])
def test_widths_of_a_split(x, axis, widths):
    first = x.add("Split", ["h", x.ints(5, 3)], attrs={"axis": axis})
    x.nodes[-1].outputs.append("second")
    x.graph.define(x.nodes[-1])
    assert [x.width(first), x.width("second")] == widths


def test_names_are_unique_and_types_follow(x):
    names = [
        x.add("Cast", ["h"], dtype="float16"),
        x.add("Cast", ["h"], dtype="float16"),
        x.add("Neg", ["h"], output="y"),
    ]
    assert len(set(names)) == 3
    assert len({node.name for node in x.nodes}) == 3
    assert [x.graph.types[name] for name in names] == ["float16", "float16", "float32"]


def test_numbers_of_constants_and_weights(x):
    np.testing.assert_array_equal(x.array("b"), np.ones(12))
    assert x.array("w").shape == (8, 12)
    assert x.value("w") is None
    with pytest.raises(FrontendError, match="must be a constant") as error:
        x.array("h")
    assert "composite" in str(error.value)
