from __future__ import annotations

import itertools

import numpy as np

from tqc.frontend.graph import Graph, Input, Node


def _graph(nodes: list[Node], output: str = "y") -> Graph:
    return Graph({"x": Input("x", "float32", ("n",))}, {"y": output}, {}, {}, nodes, 17, {})


def test_nodes_come_in_topological_order_and_dead_ones_go():
    b, a, dead = Node("Neg", ["a"], ["b"]), Node("Abs", ["x"], ["a"]), Node("Exp", ["a"], ["unused"])
    graph = _graph([b, dead, a], "b")
    assert graph.nodes == [a, b]
    assert graph.users["a"] == [b]
    assert (graph.op("b"), graph.op("x")) == ("Neg", "")


def test_redefining_a_tensor_replaces_its_producer():
    a, b = Node("Abs", ["x"], ["a"]), Node("Neg", ["a"], ["y"])
    graph = _graph([a, b])
    graph.define(new := Node("Fused", ["x"], ["y"], domain="tqc"))
    graph.prune()
    assert graph.nodes == [new]
    assert new.kind == "tqc::Fused"


def test_a_node_with_several_outputs_appears_once():
    split = Node("Split", ["x"], ["l", "r"])
    graph = _graph([Node("Add", ["l", "r"], ["y"]), split])
    assert [node.op for node in graph.nodes] == ["Split", "Add"]


def test_a_cycle_ends():
    graph = _graph([Node("Add", ["x", "b"], ["a"]), Node("Neg", ["a"], ["b"])], "b")
    assert {node.op for node in graph.nodes} == {"Add", "Neg"}


def test_long_chains_do_not_recurse():
    names = ["x", *(f"t{n}" for n in range(5000))]
    graph = _graph([Node("Neg", [a], [b]) for a, b in itertools.pairwise(names)][::-1], names[-1])
    assert len(graph.nodes) == 5000
    assert graph.nodes[0].inputs == ["x"]


def test_ancestors():
    graph = _graph([Node("Abs", ["x"], ["a"]), Node("Add", ["a", "c"], ["y"]), Node("Neg", ["x"], ["other"])])
    graph.constants["c"] = np.zeros(1)
    assert graph.ancestors(["y"]) == {"y", "a", "c", "x"}


def test_ancestors_by_value_stop_at_shapes():
    graph = _graph([Node("Abs", ["x"], ["a"]), Node("Shape", ["a"], ["s"]), Node("Neg", ["s"], ["y"])])
    assert graph.ancestors(["y"], values_only=True) == {"y", "s"}
    assert graph.ancestors(["y"]) == {"y", "s", "a", "x"}


def test_labels_fall_back_to_the_output():
    assert Node("Add", [], ["t"]).label == "Add t"
    assert Node("Add", [], ["t"], name="/model/Add").label == "Add /model/Add"
