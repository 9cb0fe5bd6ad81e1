"""Runs parts of a graph on small made-up inputs, with the weights cut out, to see what they compute.

Masks, positions and shape arithmetic are written in many ways by exporters but mean few things: they are recognised by
their values. A matrix product with a weight becomes a broadcast of the right shape, so a probe of a model of any size
costs milliseconds. Nothing read from a probe may depend on the model's data (see `dependence`), only on sizes, mask and
positions, or on the cache's contents, which are random numbers known to the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from tqc.errors import FrontendError

from .dtypes import computed
from .graph import Graph, Node
from .interface import MASK, POSITIONS, TOKENS
from .setting import Setting

_ELEMENT = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "int64": onnx.TensorProto.INT64}
_PREFIX = "tqc_probe/"


def _onnx_type(dtype: str) -> int:
    dtype = computed(dtype)
    return _ELEMENT.get(dtype) or helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Cut:
    """Collects the probe's nodes and initialisers."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.zeroed: set[str] = set()

    def constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(value, name)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(_PREFIX + "_".join(map(str, values)), np.array(values, np.int64))

    def add(self, op: str, inputs: list[str], output: str, **attrs) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attrs))
        return output

    def product(self, x: str, width: int, output: str) -> None:
        """A tensor of x's shape with `width` columns."""
        column = self.add("Slice", [x, self.ints(0), self.ints(1), self.ints(-1)], _PREFIX + output)
        self.add("Expand", [column, self.ints(width)], output)

    def rows(self, indices: str, width: int, dtype: str, output: str) -> None:
        """A tensor of the shape of `indices` with an axis of `width` behind."""
        column = self.add("Unsqueeze", [indices, self.ints(-1)], f"{_PREFIX}{output}/column")
        typed = self.add("Cast", [column], f"{_PREFIX}{output}/typed", to=_onnx_type(dtype))
        self.add("Expand", [typed, self.ints(width)], output)

    def copy(self, node: Node) -> None:
        """The first operand, unchanged."""
        self.add("Identity", node.inputs[:1], node.outputs[0])

    def visit(self, node: Node) -> None:
        if stand_in := _STAND_INS.get(node.kind):
            return stand_in(self, node)
        weights = self.graph.weights
        shapes = [weights[t].shape if t in weights else None for t in node.inputs]
        if node.kind == "MatMul" and shapes[1] and len(shapes[1]) == 2 and not shapes[0]:
            return self.product(node.inputs[0], shapes[1][1], node.outputs[0])
        if node.kind == "Gemm" and shapes[1] and not shapes[0]:
            return self.product(node.inputs[0], shapes[1][0 if node.attrs.get("transB") else 1], node.outputs[0])
        if node.kind == "Gather" and shapes[0] and len(shapes[0]) == 2 and not node.attrs.get("axis", 0):
            return self.rows(node.inputs[1], shapes[0][1], weights[node.inputs[0]].dtype, node.outputs[0])
        for name in node.inputs:
            if name in weights:
                self.zeros(name)
            elif name in self.graph.constants:
                self.constant(name, self.graph.constants[name])
        self.nodes.append(_proto(node))
        return None

    def zeros(self, name: str) -> None:
        weight = self.graph.weights[name]
        if name not in self.zeroed:
            self.zeroed.add(name)
            value = helper.make_tensor("value", _onnx_type(weight.dtype), [1], [0])
            self.add("ConstantOfShape", [self.ints(*weight.shape)], name, value=value)


_STAND_INS: dict[str, Callable[[_Cut, Node], None]] = {
    "tqc::RMSNorm": lambda cut, node: cut.copy(node),
    "tqc::Rope": lambda cut, node: cut.copy(node),
    "tqc::MatMulNBits": lambda cut, node: cut.product(node.inputs[0], node.attrs["n"], node.outputs[0]),
    "tqc::GatherNBits": lambda cut, node: cut.rows(
        node.inputs[1], node.attrs["width"], cut.graph.types[node.outputs[0]], node.outputs[0]
    ),
    "Gelu": lambda cut, node: cut.copy(node),
    "LayerNormalization": lambda cut, node: cut.copy(node),
}
"""Something of the right shape for operations that onnxruntime does not know: the dialect's, and those of newer opsets
than the graph's that composites expand into."""


def _proto(node: Node) -> onnx.NodeProto:
    if node.proto is None:
        attrs = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in node.attrs.items()}
        return helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain, **attrs)
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    proto.input[:] = node.inputs
    return proto


class Probe:
    """A runnable part of a graph: the `wanted` tensors, and the shapes of the tensors in `shapes`."""

    def __init__(self, graph: Graph, wanted: set[str], shapes: set[str] = frozenset()) -> None:
        self._graph = graph
        self._wanted = sorted(wanted)
        self._shapes = sorted(shapes)
        needed = graph.ancestors([*self._wanted, *self._shapes])
        cut = _Cut(graph)
        for node in graph.nodes:
            if any(name in needed for name in node.outputs):
                cut.visit(node)
        for name in self._shapes:
            cut.add("Shape", [name], f"{_PREFIX}shape/{name}")
        self._outputs = self._wanted + [f"{_PREFIX}shape/{name}" for name in self._shapes]
        used = {name for node in cut.nodes for name in node.input} | wanted
        self._inputs = [entry for name, entry in graph.inputs.items() if name in used]
        self._session = self._open(cut) if self._outputs else None

    def _open(self, cut: _Cut) -> ort.InferenceSession:
        infos = [helper.make_tensor_value_info(i.name, _onnx_type(i.dtype), i.shape) for i in self._inputs]
        outputs = [helper.make_empty_tensor_value_info(name) for name in self._outputs]
        for node in cut.nodes:
            node.ClearField("name")  # names need not be unique here, but onnxruntime refuses some that are not
        proto = helper.make_graph(cut.nodes, "probe", infos, outputs, list(cut.initializers.values()))
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", self._graph.opset)], ir_version=8)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _failed("cannot be loaded", error) from None

    def run(self, setting: Setting) -> Observed:
        """Values and shapes at one setting; raises FrontendError if the graph cannot run there."""
        feeds = {entry.name: feed(entry.name, entry.dtype, entry.shape, setting) for entry in self._inputs}
        try:
            results = self._session.run(self._outputs, feeds) if self._session else []
        except Exception as error:
            raise _failed(f"fails with {setting}", error) from None
        values = dict(zip(self._wanted, results, strict=False))
        shapes = {
            name: tuple(map(int, found)) for name, found in zip(self._shapes, results[len(self._wanted) :], strict=True)
        }
        return Observed(setting, values, shapes)


@dataclass(frozen=True)
class Observed:
    """What a probe saw at one setting."""

    setting: Setting
    values: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]


def feed(name: str, dtype: str, shape: tuple[int | str, ...], setting: Setting) -> np.ndarray:
    """The value a probe gives to a graph input; cache tensors get random numbers that depend on the name alone."""
    if name == TOKENS:
        return np.ones((setting.batch, setting.seq), dtype)
    if name == MASK:
        return setting.mask().astype(dtype)
    if name == POSITIONS:
        return setting.positions().astype(dtype)
    seed = np.frombuffer(name.encode(), np.uint8).astype(np.uint32)
    size = (setting.batch, shape[1], setting.past, shape[3])
    return np.random.default_rng(seed).standard_normal(size, np.float32).astype(dtype)


def _failed(what: str, error: Exception) -> FrontendError:
    return FrontendError(
        f"The graph {what} in onnxruntime.",
        found=(str(error).splitlines() or [type(error).__name__])[0],
        hint="Check that the model runs in onnxruntime, with several new tokens behind a cache too.",
    )
