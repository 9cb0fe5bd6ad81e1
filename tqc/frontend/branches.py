"""If nodes whose branches hold nothing but constants, as LongRoPE's exports choose between two tables of angles."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from .graph import Node

THEN, ELSE = "then_branch", "else_branch"


def constant_branches(node: Node) -> bool:
    """Replaces the branches of an If, in place, by the arrays they return; False for every other node.

    A branch with inputs of its own or an operation other than Constant is left alone, and the node with it.
    """
    if node.kind != "If":
        return False
    found = {name: _arrays(node.attrs[name]) for name in (THEN, ELSE)}
    if any(arrays is None or len(arrays) != len(node.outputs) for arrays in found.values()):
        return False
    node.attrs, node.proto = found, None
    return True


def _arrays(graph: onnx.GraphProto) -> tuple[np.ndarray, ...] | None:
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        tensors = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        if node.op_type != "Constant" or len(tensors) != 1:
            return None
        values[node.output[0]] = tensors[0]
    tensors = [values.get(info.name) for info in graph.output]
    if any(tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        return None
    return tuple(numpy_helper.to_array(tensor) for tensor in tensors)
