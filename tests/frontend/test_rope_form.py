from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.graph import Graph, Node
from tqc.frontend.rope_form import RopeForm, rope_form


def _graph(inv_freq: np.ndarray, attrs: dict, *after: Node) -> Graph:
    rope = Node("Rope", ["x", "f"], ["q"], attrs, domain="tqc")
    product = Node("MatMul", ["x0", "w"], ["x"])
    constants = {"f": inv_freq.astype(np.float32), "scale": np.float32(0.5), "w": np.ones((2, 2))}
    return Graph({}, {"y": after[-1].outputs[0] if after else "q"}, constants, {}, [product, rope, *after], 17, {})


def _powers(theta: float, dims: int) -> np.ndarray:
    return theta ** (-np.arange(0, dims, 2) / dims)


@pytest.mark.parametrize(("theta", "dims"), [(10000.0, 64), (500000.0, 128), (1e6, 96), (10000.0, 32)])
def test_theta(theta, dims):
    found = rope_form(_graph(_powers(theta, dims), {"scaling": 1.0}), "q")
    assert (found.theta, found.dims, found.scaling, found.interleaved) == (theta, dims, 1.0, False)
    assert str(found) == f"theta {theta:g}, {dims} dims"


def test_scaled_frequencies_have_no_theta():
    frequencies = _powers(500000.0, 64)
    frequencies[20:] /= 8
    found = rope_form(_graph(frequencies, {"scaling": 1.25, "interleaved": 1}), "q")
    assert found == RopeForm(64, None, pytest.approx(frequencies[-1], rel=1e-6), 1.25, True)
    assert str(found) == "32 frequencies down to 3.77e-07, 64 dims, scaling 1.25, interleaved"


def test_the_rotation_lies_behind_layout_and_scale():
    after = [
        Node("Concat", ["q", "rest"], ["whole"], {"axis": -1}),
        Node("Cast", ["whole"], ["narrow"]),
        Node("Mul", ["narrow", "scale"], ["scaled"]),
    ]
    assert rope_form(_graph(_powers(10000.0, 32), {}, *after), "scaled").dims == 32


def test_no_rotation():
    graph = _graph(_powers(10000.0, 32), {})
    assert rope_form(graph, "x") is None
    product = Node("MatMul", ["q", "w"], ["mixed"])
    assert rope_form(_graph(_powers(10000.0, 32), {}, product), "mixed") is None
