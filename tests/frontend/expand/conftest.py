"""An operation to expand: what it computes in onnxruntime, and what its expansion computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from tqc.frontend.expand import EXPANDERS, Expansion
from tqc.frontend.graph import Graph, Input, Node


class Bench:
    """A graph of one composite node with the given inputs and constants; `names` are the node's operands.

    `tqc::Rope` rotates to the positions start, start + 1, …. `dynamic` holds the shapes of inputs that vary.
    """

    def __init__(
        self,
        feeds: dict[str, np.ndarray],
        constants: dict[str, np.ndarray] | None = None,
        op: str = "Composite",
        names: Iterable[str] = (),
        outputs: Iterable[str] = ("y",),
        *,
        opset: int = 18,
        start: int = 0,
        dynamic: dict[str, tuple[int | str, ...]] | None = None,
        **attrs: Any,
    ) -> None:
        self.feeds, self.constants, self.opset, self.start = feeds, constants or {}, opset, start
        domain, _, op = op.rpartition("::")
        self.node = Node(op, list(names or feeds), list(outputs), attrs, "composite", domain)
        shapes = {name: value.shape for name, value in feeds.items()} | (dynamic or {})
        inputs = {name: Input(name, str(value.dtype), shapes[name]) for name, value in feeds.items()}
        types = {name: str(value.dtype) for name, value in (feeds | self.constants).items()}
        results = {name: name for name in outputs if name}
        self.graph = Graph(inputs, results, dict(self.constants), {}, [self.node], opset, types)
        self.expansion = Expansion(self.graph)
        self.expansion.begin(self.node)

    def expand(self) -> list[str]:
        """Expands the node; returns the kinds of the nodes that replace it."""
        EXPANDERS[self.node.kind](self.expansion, self.node)
        return [node.kind for node in self.expansion.nodes]

    def original(self) -> list[np.ndarray]:
        """What onnxruntime's own kernel computes, for the outputs that have names."""
        return self._evaluate([self.node], [name for name in self.node.outputs if name], self.constants)

    def run(self, *names: str) -> list[np.ndarray]:
        """The values of tensors of the expansion, by default of the node's outputs."""
        wanted = list(names) or [name for name in self.node.outputs if name]
        return self._evaluate(self.expansion.nodes, wanted, self.graph.constants)

    def check(self, tolerance: float = 1e-5) -> None:
        """Expands and compares every output with onnxruntime's, in type and value."""
        self.expand()
        for found, expected in zip(self.run(), self.original(), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)

    def _evaluate(self, nodes: list[Node], names: list[str], constants: dict[str, np.ndarray]) -> list[np.ndarray]:
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feeds.items()
        ]
        protos = [proto for node in nodes for proto in self._protos(node)]
        initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        outputs = [helper.make_empty_tensor_value_info(name) for name in names]
        graph = helper.make_graph(protos, "bench", infos, outputs, initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run(names, self.feeds)

    def _protos(self, node: Node) -> list[onnx.NodeProto]:
        if node.kind == "tqc::RMSNorm":
            return _rms_norm(node)
        if node.kind == "tqc::Rope":
            return self._rope(node)
        return [helper.make_node(node.op, node.inputs, node.outputs, domain=node.domain, **node.attrs)]

    def _rope(self, node: Node) -> list[onnx.NodeProto]:
        """`tqc::Rope` written out for the positions start, start + 1, …"""
        x, frequencies = node.inputs
        (y,) = node.outputs
        half, chain = self.graph.constants[frequencies].size, _Chain(y)
        seq = chain.add("Gather", [chain.add("Shape", [x]), chain.value(2)])
        positions = chain.add("Range", [chain.value(0), seq, chain.value(1)])
        shifted = chain.add("Cast", [chain.add("Add", [positions, chain.value(self.start)])], to=1)
        angle = chain.add("Mul", [chain.add("Unsqueeze", [shifted, chain.value([1])]), frequencies])
        scaling = chain.value(np.float32(node.attrs["scaling"]))
        cos, sin = (chain.add("Mul", [chain.add(f, [angle]), scaling]) for f in ("Cos", "Sin"))
        wide = chain.add("Cast", [x], to=1)
        step = 2 if node.attrs.get("interleaved") else 1
        starts = (0, 1) if step == 2 else (0, half)
        ends = (2 * half, 2 * half) if step == 2 else (half, 2 * half)
        low, high = (
            chain.add("Slice", [wide, chain.value([s]), chain.value([e]), chain.value([3]), chain.value([step])])
            for s, e in zip(starts, ends, strict=True)
        )
        real = chain.add("Sub", [chain.add("Mul", [low, cos]), chain.add("Mul", [high, sin])])
        imaginary = chain.add("Add", [chain.add("Mul", [high, cos]), chain.add("Mul", [low, sin])])
        if step == 2:
            pair = [chain.add("Unsqueeze", [part, chain.value([4])]) for part in (real, imaginary)]
            joined = chain.add("Reshape", [chain.add("Concat", pair, axis=4), chain.value([0, 0, 0, 2 * half])])
        else:
            joined = chain.add("Concat", [real, imaginary], axis=3)
        chain.nodes.append(helper.make_node("CastLike", [joined, x], [y]))
        return chain.nodes


class _Chain:
    """Nodes in the making, their names below `prefix`."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.nodes = prefix, []

    def add(self, op: str, inputs: list[str], **attrs) -> str:
        name = f"{self.prefix}/bench_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def value(self, number) -> str:
        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(number)))


def _rms_norm(node: Node) -> list[onnx.NodeProto]:
    """`tqc::RMSNorm` written out; the mean in float32, the result in the type of x."""
    (x, weight), (y,) = node.inputs, node.outputs
    chain = _Chain(y)
    wide = chain.add("Cast", [x], to=1)
    mean = chain.add("ReduceMean", [chain.add("Mul", [wide, wide]), chain.value([-1])], keepdims=1)
    epsilon = chain.value(np.float32(node.attrs["epsilon"]))
    normal = chain.add("Div", [wide, chain.add("Sqrt", [chain.add("Add", [mean, epsilon])])])
    scaled = chain.add("Mul", [normal, chain.add("Cast", [weight], to=1)])
    chain.nodes.append(helper.make_node("CastLike", [scaled, x], [y]))
    return chain.nodes


@pytest.fixture
def bench() -> Callable[..., Bench]:
    return Bench
