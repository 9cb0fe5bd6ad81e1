from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.graph import Graph, Input, Node
from tqc.frontend.names import identifier, parameter_names
from tqc.frontend.weights import ArrayTensor, Weight


@pytest.mark.parametrize(
    ("text", "name"),
    [("model.layers.0.w", "model_layers_0_w"), ("/a//b/", "a_b"), ("0.w", "p_0_w"), ("::", "p_"), ("ok", "ok")],
)
def test_identifiers(text, name):
    assert identifier(text) == name


def test_names_are_unique_ordered_and_readable():
    stored = ["model.w", "model/w", "onnx::MatMul_7", "unused"]
    weights = {n: Weight(n, (2, 2), "float32", ArrayTensor(np.ones((2, 2), np.float32)), n) for n in stored}
    nodes = [
        Node("MatMul", ["x", "model.w"], ["a"], name="/model/first/MatMul"),
        Node("MatMul", ["a", "onnx::MatMul_7"], ["b"], name="/model/q_proj/MatMul"),
        Node("MatMul", ["b", "model/w"], ["c"]),
        Node("MatMul", ["c", "model.w"], ["y"]),
    ]
    graph = Graph({"x": Input("x", "float32", (2, 2))}, {"y": "y"}, {}, weights, nodes, 17, {})
    assert list(parameter_names(graph).items()) == [
        ("model.w", "model_w"),
        ("onnx::MatMul_7", "model_q_proj_weight"),
        ("model/w", "model_w_2"),
    ]
