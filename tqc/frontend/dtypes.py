"""Element types of a node's outputs, from those of its operands (ONNX operator specification)."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .graph import Node
from .load import DTYPES

_BOOLEAN = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"}
_INT64 = {"Shape", "Size", "NonZero", "ArgMax", "ArgMin"}


def computed(dtype: str) -> str:
    """The type in which tensors of `dtype` are computed: float32 for bfloat16, whose weights alone stay as they are.

    Every bfloat16 number is a float32 number, and onnxruntime's CPU kernels, which run the probes, know no bfloat16.
    """
    return "float32" if dtype == "bfloat16" else dtype


def widened(array: np.ndarray) -> np.ndarray:
    """The array in the type it is computed in."""
    return array.astype(computed(str(array.dtype)), copy=False)


def widen_attributes(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node with float32 wherever its attributes say bfloat16."""
    wide = onnx.NodeProto()
    wide.CopyFrom(node)
    for attribute in wide.attribute:
        if attribute.name in ("to", "dtype") and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
        if attribute.t.data_type == TensorProto.BFLOAT16:
            attribute.t.CopyFrom(numpy_helper.from_array(widened(numpy_helper.to_array(attribute.t))))
    return wide


def element_types(node: Node, types: dict[str, str]) -> dict[str, str]:
    """Output name → element type; an operand of unknown type makes its results unknown."""
    if node.op == "Cast":
        found = computed(DTYPES[node.attrs["to"]]) if node.attrs["to"] in DTYPES else None
    elif node.op in _BOOLEAN:
        found = "bool"
    elif node.op in _INT64:
        found = "int64"
    elif node.op == "ConstantOfShape":
        found = str(node.attrs["value"].dtype) if "value" in node.attrs else "float32"
    elif node.op == "GatherBlockQuantized":
        found = types.get(node.inputs[2])
    elif node.op in ("Where", "RMSNormalization", "SimplifiedLayerNormalization"):
        found = types.get(node.inputs[1])
    else:
        found = types.get(node.inputs[0]) if node.inputs else None
    return {name: found for name in node.outputs if name and found}
