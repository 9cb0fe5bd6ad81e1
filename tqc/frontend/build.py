"""From a loaded ONNX file to a Graph: constants and weights apart, and nodes that do nothing left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tqc.errors import FrontendError

from .branches import THEN, constant_branches
from .dtypes import computed, element_types, widen_attributes, widened
from .graph import Graph, Input, Node
from .load import DTYPES, HALF_BYTES, LoadedModel
from .structure import checked_nodes
from .weights import ArrayTensor, Cast, Source, Transpose, Weight

SMALL = 1024
"""Vectors and packed integers of at most this many elements become constants; larger ones and all matrices are
weights."""


def _is_weight(dtype: str, shape: tuple[int, ...]) -> bool:
    if dtype in HALF_BYTES.values():
        return True
    is_matrix = len(shape) == 2 and min(shape) > 1
    is_packed = dtype in ("uint8", "int8")
    is_float = np.dtype(computed(dtype)).kind == "f"
    return (is_float and is_matrix) or ((is_float or is_packed) and math.prod(shape) > SMALL)


def _weight(name: str, shape: tuple[int, ...], dtype: str, source: Source) -> Weight:
    """Matrices keep their type; what else is float is so small that it is stored in the type it is computed in."""
    weight = Weight(name, shape, dtype, source, name)
    if len(shape) == 2 or computed(dtype) == dtype:
        return weight
    return weight.then(Cast(computed(dtype)), dtype=computed(dtype))


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def _input(info: onnx.ValueInfoProto) -> Input:
    tensor = info.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
    dtype = DTYPES.get(tensor.elem_type)
    if dtype is None:
        raise FrontendError(
            "Graph input of an unsupported type.", where=f"input {info.name}", expected=", ".join(DTYPES.values())
        )
    return Input(info.name, computed(dtype), shape)


def _constant_value(node: Node) -> np.ndarray:
    (value,) = node.attrs.values()
    return np.asarray(value, np.float32 if "value_float" in node.attrs or "value_floats" in node.attrs else None)


def _fold_weight(weight: Weight, node: Node, opset_types: dict[str, str]) -> Weight | None:
    """The weight that `node` makes of `weight`, None if it is not a change of layout or type."""
    if node.op == "Transpose":
        perm = tuple(node.attrs.get("perm", reversed(range(len(weight.shape)))))
        return weight.then(Transpose(perm), shape=tuple(weight.shape[axis] for axis in perm))
    if node.op == "Cast":
        dtype = opset_types[node.outputs[0]]
        return weight if computed(weight.dtype) == dtype else weight.then(Cast(dtype), dtype=dtype)
    return None


def _is_void(node: Node, types: dict[str, str], constants: dict[str, np.ndarray]) -> bool:
    """Whether the node's only output is its first operand unchanged."""
    if node.op in ("Identity", "Dropout"):
        return len(node.inputs) < 3 and not any(node.outputs[1:])
    if node.op == "Cast":
        return types.get(node.inputs[0]) == types[node.outputs[0]]
    if node.op == "Concat":
        node.inputs = [t for t in node.inputs if t not in constants or constants[t].size] or node.inputs[:1]
        return len(node.inputs) == 1
    return False


def build(model: LoadedModel) -> Graph:
    """The graph of a loaded model, every Constant, Identity and Cast to the same type resolved.

    Raises FrontendError for inputs of unsupported types and for nodes with subgraphs (If, Loop, Scan), but
    for an If between constants.
    """
    proto = model.proto.graph
    constants: dict[str, np.ndarray] = {}
    weights: dict[str, Weight] = {}
    for name, tensor in model.initializers.items():
        if _is_weight(tensor.dtype, tensor.shape):
            weights[name] = _weight(name, tensor.shape, tensor.dtype, tensor.source)
        else:
            constants[name] = widened(np.array(tensor.source.read()))
    inputs = {info.name: _input(info) for info in proto.input if info.name not in model.initializers}
    types = {name: entry.dtype for name, entry in inputs.items()}
    types |= {name: computed(weight.dtype) for name, weight in weights.items()}
    types |= {name: str(array.dtype) for name, array in constants.items()}

    alias: dict[str, str] = {}
    nodes = []
    for source in map(widen_attributes, checked_nodes(proto, model.initializers, model.opset)):
        attrs = {a.name: _attribute(a) for a in source.attribute}
        domain = "" if source.domain == "ai.onnx" else source.domain
        operands = [alias.get(t, t) for t in source.input]
        node = Node(source.op_type, operands, list(source.output), attrs, source.name, domain, source)
        if constant_branches(node):
            types |= {name: str(array.dtype) for name, array in zip(node.outputs, node.attrs[THEN], strict=True)}
            nodes.append(node)
            continue
        if any(isinstance(value, onnx.GraphProto) for value in attrs.values()):
            raise FrontendError(
                "Control flow is not supported.", where=node.label, hint="Export the model without If, Loop and Scan."
            )
        if node.kind == "Constant":
            (name,), value = node.outputs, widened(_constant_value(node))
            types[name] = str(value.dtype)
            if _is_weight(types[name], value.shape):
                weights[name] = _weight(name, value.shape, types[name], ArrayTensor(value))
            else:
                constants[name] = value
            continue
        types |= element_types(node, types)
        if not domain and node.inputs and node.inputs[0] in weights:
            if folded := _fold_weight(weights[node.inputs[0]], node, types):
                weights[node.outputs[0]] = folded
                continue
        if not domain and node.inputs and _is_void(node, types, constants):
            alias[node.outputs[0]] = node.inputs[0]
            continue
        nodes.append(node)
    outputs = {info.name: alias.get(info.name, info.name) for info in proto.output}
    return Graph(inputs, outputs, constants, weights, nodes, model.opset, types)
