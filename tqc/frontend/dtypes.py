"""Element types of a node's outputs, from those of its operands (ONNX operator specification)."""

from __future__ import annotations

from .graph import Node
from .load import DTYPES

_BOOLEAN = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf"}
_INT64 = {"Shape", "Size", "NonZero", "ArgMax", "ArgMin"}


def element_types(node: Node, types: dict[str, str]) -> dict[str, str]:
    """Output name → element type; an operand of unknown type makes its results unknown."""
    if node.op == "Cast":
        found = DTYPES.get(node.attrs["to"])
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
