"""RMSNorm in the ways exporters write it, inside a graph of its own."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.facts import Facts
from tqc.frontend.graph import Graph, Input, Node
from tqc.frontend.norms import fuse_norms

CONSTANTS = {
    "two": np.float32(2),
    "three": np.float32(3),
    "eps": np.float32(1e-5),
    "one": np.float32(1),
    "axis": np.array([-1]),
    "weight": np.ones(8, np.float32),
    "single": np.full(1, 3, np.float32),
    "matrix": np.ones((8, 8), np.float32),
}

PLAIN = [
    Node("Pow", ["x", "two"], ["square"]),
    Node("ReduceMean", ["square"], ["mean"], {"axes": [-1], "keepdims": 1}, "norm"),
    Node("Add", ["mean", "eps"], ["shifted"]),
    Node("Sqrt", ["shifted"], ["root"]),
    Node("Div", ["one", "root"], ["inverse"]),
    Node("Mul", ["x", "inverse"], ["unit"]),
    Node("Mul", ["weight", "unit"], ["y"]),
]


def _copy(*changes: Node, drop: tuple[str, ...] = ()) -> list[Node]:
    """PLAIN with the nodes of the same outputs replaced."""
    nodes = {
        node.outputs[0]: Node(node.op, list(node.inputs), list(node.outputs), dict(node.attrs), node.name)
        for node in PLAIN
    }
    nodes |= {node.outputs[0]: node for node in changes}
    return [node for name, node in nodes.items() if name not in drop]


def _fuse(nodes: list[Node], types: dict[str, str] | None = None) -> Graph:
    names = {name for node in nodes for name in node.outputs}
    types = dict.fromkeys(names, "float32") | {"x": "float32"} | (types or {})
    graph = Graph({"x": Input("x", types["x"], ("n", 8))}, {"y": "y"}, dict(CONSTANTS), {}, nodes, 17, types)
    fuse_norms(Facts(graph, {}, ()))
    graph.prune()
    return graph


@pytest.mark.parametrize(
    "nodes",
    [
        _copy(),
        _copy(Node("Mul", ["x", "x"], ["square"])),
        _copy(Node("Reciprocal", ["root"], ["inverse"])),
        _copy(Node("Div", ["x", "root"], ["unit"]), drop=("inverse",)),
        _copy(Node("Add", ["eps", "mean"], ["shifted"]), Node("Mul", ["unit", "weight"], ["y"])),
        _copy(Node("ReduceMean", ["square", "axis"], ["mean"])),
    ],
    ids=["plain", "square-by-mul", "reciprocal", "divide", "swapped", "opset-18"],
)
def test_forms_that_are_fused(nodes):
    (node,) = _fuse(nodes).nodes
    assert (node.kind, node.inputs, node.outputs) == ("tqc::RMSNorm", ["x", "weight"], ["y"])
    assert node.attrs == {"epsilon": pytest.approx(1e-5)}


def test_float16_widened_inside_is_fused_without_casts():
    nodes = [Node("Cast", ["x"], ["wide"]), *_copy(Node("Mul", ["weight", "narrow"], ["y"]))]
    for node in nodes[1:]:
        node.inputs = ["wide" if name == "x" else name for name in node.inputs]
    nodes.append(Node("Cast", ["unit"], ["narrow"]))
    (node,) = _fuse(nodes, {"x": "float16", "y": "float16", "narrow": "float16"}).nodes
    assert node.inputs == ["x", "weight"]


def test_a_result_of_another_type_is_cast():
    nodes = [*_copy(Node("Mul", ["weight", "narrow"], ["y"])), Node("Cast", ["unit"], ["narrow"])]
    graph = _fuse(nodes, {"y": "float16", "narrow": "float16"})
    assert [node.kind for node in graph.nodes] == ["tqc::RMSNorm", "Cast"]
    assert graph.types[graph.nodes[0].outputs[0]] == "float32"


@pytest.mark.parametrize(
    "nodes",
    [
        _copy(Node("Pow", ["x", "three"], ["square"])),
        _copy(Node("ReduceMean", ["square"], ["mean"], {"axes": [1]})),
        _copy(Node("ReduceMean", ["square"], ["mean"], {"axes": [-1], "keepdims": 0})),
        _copy(Node("Div", ["three", "root"], ["inverse"])),
        _copy(Node("Mul", ["inverse", "mean"], ["unit"])),
        _copy(Node("Mul", ["matrix", "unit"], ["y"])),
        _copy(Node("Mul", ["single", "unit"], ["y"])),
        _copy(Node("Add", ["mean", "x"], ["shifted"])),
        _copy(Node("Neg", ["unit"], ["y"])),
    ],
    ids=["cube", "axis", "keepdims", "numerator", "other-x", "matrix", "one-for-all", "no-epsilon", "no-weight"],
)
def test_other_forms_stay(nodes):
    assert not any(node.domain for node in _fuse(nodes).nodes)
