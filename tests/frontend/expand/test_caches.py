"""The way back from an attention's operand to the cache input, and head_dims that only a width tells."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.expand.caches import cache_of, pin_head_dim
from tqc.frontend.graph import Input


@pytest.fixture
def e(bench):
    expansion = bench({"past": np.zeros((1, 2, 5, 8), np.float32), "k": np.zeros((1, 2, 3, 8), np.float32)}).expansion
    expansion.graph.inputs["past"] = Input("past", "float32", ("batch", 2, "past", "dim"))
    return expansion


def test_cache_behind_layout_operations(e):
    joined = e.add("Concat", ["past", "k"], attrs={"axis": 2})
    wide = e.add("Expand", [e.add("Unsqueeze", [joined, e.ints(2)]), e.ints(1, 1, 2, 1, 1)])
    assert cache_of(e, e.add("Reshape", [wide, e.ints(0, 4, -1, 8)])) == "past"


def test_no_cache(e):
    assert cache_of(e, e.add("Add", ["past", "k"])) == ""
    assert cache_of(e, e.add("Concat", ["past", "k", "k"], attrs={"axis": 2})) == ""
    assert cache_of(e, "nothing") == ""


def test_pin(e):
    pin_head_dim(e, "past", 8)
    assert e.graph.inputs["past"].shape == ("batch", 2, "past", 8)
    pin_head_dim(e, "past", 16)
    assert e.graph.inputs["past"].shape == ("batch", 2, "past", 8)
    pin_head_dim(e, "", 16)
