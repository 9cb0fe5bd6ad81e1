"""Activations and fused products that onnxruntime's optimizer and the model builder write, in ONNX's own operations."""

from __future__ import annotations

import numpy as np

from tqc.frontend.graph import Node
from tqc.frontend.weights import Transpose

from .context import Expansion

_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh"})


def _number(expansion: Expansion, value: float, like: str) -> str:
    return expansion.constant(np.array(value, expansion.graph.types.get(like, "float32")))


def gelu(expansion: Expansion, node: Node) -> None:
    """Gelu of x, or of x plus a bias: BiasGelu and Gelu with erf, FastGelu with tanh."""
    x, *bias = [tensor for tensor in node.inputs if tensor]
    if bias:
        x = expansion.add("Add", [x, bias[0]])
    approximate = "tanh" if node.op == "FastGelu" else "none"
    expansion.add("Gelu", [x], attrs={"approximate": approximate}, output=node.outputs[0])


def swish(expansion: Expansion, node: Node) -> None:
    """x·sigmoid(alpha·x): QuickGelu, whose alpha defaults to 1.702, and Swish, whose alpha defaults to 1."""
    (x,) = node.inputs
    alpha = node.attrs.get("alpha", 1.702 if node.op == "QuickGelu" else 1.0)
    scaled = x if alpha == 1 else expansion.add("Mul", [x, _number(expansion, alpha, x)])
    expansion.add("Mul", [x, expansion.add("Sigmoid", [scaled])], output=node.outputs[0])


def bias_add(expansion: Expansion, node: Node) -> None:
    """x + bias + skip."""
    x, bias, skip = node.inputs
    expansion.add("Add", [expansion.add("Add", [x, bias]), skip], output=node.outputs[0])


def fused_matmul(expansion: Expansion, node: Node) -> None:
    """alpha·A·B with the last two axes of A or B swapped."""
    if node.attrs.get("transBatchA") or node.attrs.get("transBatchB"):
        expansion.refuse("A product with swapped batch axes is not supported.")
    a, b = (
        _transposed(expansion, tensor) if node.attrs.get(flag) else tensor
        for tensor, flag in zip(node.inputs, ("transA", "transB"), strict=True)
    )
    alpha = node.attrs.get("alpha", 1.0)
    product = expansion.add("MatMul", [a, b], output=node.outputs[0] if alpha == 1 else None)
    if alpha != 1:
        expansion.add("Mul", [product, _number(expansion, alpha, product)], output=node.outputs[0])


def _transposed(expansion: Expansion, tensor: str) -> str:
    """`tensor` with its last two axes swapped; a weight stays a weight."""
    rank = expansion.rank(tensor)
    if rank is None:
        expansion.refuse("The rank of a transposed operand is not known.", found=tensor)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    weight = expansion.weight(tensor)
    if weight is None:
        return expansion.add("Transpose", [tensor], attrs={"perm": list(perm)})
    name = f"{tensor}/transposed"
    shape = tuple(weight.shape[axis] for axis in perm)
    expansion.graph.weights[name] = weight.then(Transpose(perm), shape=shape)
    expansion.graph.types[name] = weight.dtype
    return name


def fused_gemm(expansion: Expansion, node: Node) -> None:
    """Gemm with an activation behind."""
    activation = node.attrs.get("activation", "")
    if activation not in _ACTIVATIONS:
        expansion.refuse("Unknown activation.", expected=", ".join(sorted(_ACTIVATIONS)), found=activation or "none")
    attrs = {key: node.attrs[key] for key in ("alpha", "beta", "transA", "transB") if key in node.attrs}
    product = expansion.add("Gemm", node.inputs, attrs=attrs)
    expansion.add(activation, [product], output=node.outputs[0])


EXPANDERS = {
    "Swish": swish,
    "com.microsoft::BiasAdd": bias_add,
    "com.microsoft::BiasGelu": gelu,
    "com.microsoft::FastGelu": gelu,
    "com.microsoft::FusedGemm": fused_gemm,
    "com.microsoft::FusedMatMul": fused_matmul,
    "com.microsoft::Gelu": gelu,
    "com.microsoft::QuickGelu": swish,
}
