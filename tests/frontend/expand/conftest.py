"""A graph to expand operations in, and what the result computes in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tqc.frontend.expand import Expansion
from tqc.frontend.graph import Graph, Input, Node


class Bench:
    """An expansion whose graph has the given inputs; `run` evaluates tensors of it."""

    def __init__(self, feeds: dict[str, np.ndarray]) -> None:
        self.feeds = feeds
        inputs = {name: Input(name, str(value.dtype), value.shape) for name, value in feeds.items()}
        node = Node("Composite", list(feeds), ["y"], name="composite")
        types = {name: str(value.dtype) for name, value in feeds.items()}
        self.graph = Graph(inputs, {"y": "y"}, {}, {}, [node], 18, types)
        self.expansion = Expansion(self.graph)
        self.expansion.begin(node)

    def run(self, *names: str) -> list[np.ndarray]:
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feeds.items()
        ]
        nodes = [helper.make_node(n.op, n.inputs, n.outputs, domain=n.domain, **n.attrs) for n in self.expansion.nodes]
        constants = [numpy_helper.from_array(value, name) for name, value in self.graph.constants.items()]
        outputs = [helper.make_empty_tensor_value_info(name) for name in names]
        graph = helper.make_graph(nodes, "bench", infos, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(list(names), self.feeds)


@pytest.fixture
def bench() -> Callable[[dict[str, np.ndarray]], Bench]:
    return Bench
