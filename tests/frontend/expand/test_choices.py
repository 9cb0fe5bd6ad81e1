"""Which branch is taken, and which conditions are refused."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.branches import ELSE, THEN
from tqc.frontend.claims import Claim

A, B = np.zeros((4, 2), np.float32), np.ones((4, 2), np.float32)


def choice(bench, kind="Greater", operands=("total", "limit"), branches=((A,), (B,)), limit=9):
    feeds = {"total": np.array(3), "other": np.array(4)}
    made = bench(feeds, {"limit": np.array(limit)}, "If", ["condition"], ["table"])
    made.node.attrs = dict(zip((THEN, ELSE), branches, strict=True))
    made.expansion.add(kind, list(operands), dtype="bool", output="condition")
    return made


@pytest.mark.parametrize(
    ("kind", "operands", "expected", "longest"),
    [
        ("Greater", ("total", "limit"), B, 9),
        ("GreaterOrEqual", ("total", "limit"), B, 8),
        ("Less", ("total", "limit"), A, 8),
        ("LessOrEqual", ("total", "limit"), A, 9),
        ("Less", ("limit", "total"), B, 9),
        ("GreaterOrEqual", ("limit", "total"), A, 9),
    ],
)
def test_short_sequences_decide(bench, kind, operands, expected, longest):
    made = choice(bench, kind, operands)
    assert made.expand() == [kind]
    assert made.graph.longest == longest
    np.testing.assert_array_equal(made.graph.weights["table"].numpy(), expected)
    assert [(c.tensor, c.claim) for c in made.graph.claims] == [("total", Claim.TOTAL)]


def test_the_shortest_limit_counts(bench):
    made = choice(bench)
    made.graph.longest = 5
    made.expand()
    assert made.graph.longest == 5


def test_equal_branches_are_no_choice(bench):
    made = choice(bench, branches=((np.ones(3),), (np.ones(3),)))
    made.expand()
    assert made.graph.longest is None
    assert not made.graph.claims
    np.testing.assert_array_equal(made.graph.constants["table"], np.ones(3))


@pytest.mark.parametrize(
    "arguments",
    [{"kind": "Equal"}, {"operands": ("total", "other")}, {"operands": ("limit", "limit")}, {"limit": 0}],
    ids=str,
)
def test_refused(bench, arguments):
    with pytest.raises(FrontendError, match="choice") as error:
        choice(bench, **arguments).expand()
    assert "composite" in str(error.value)
