"""Norms that exporters and onnxruntime's optimizer write, also with the residual added before.

RMSNorm becomes `tqc::RMSNorm`, LayerNorm ai.onnx's operation (ONNX operator specification, RMSNormalization 23;
onnxruntime's SimplifiedLayerNormalization, SkipLayerNormalization and SkipSimplifiedLayerNormalization).
"""

from __future__ import annotations

import math

import numpy as np

from tqc.frontend.graph import Node

from .context import Expansion

_FLOAT = 1
_ONNX_TYPE = {"float32": 1, "float16": 10}


def rms_normalization(expansion: Expansion, node: Node) -> None:
    """RMSNormalization and SimplifiedLayerNormalization: x over the last axis, times a vector, in the vector's type."""
    x, weight = node.inputs
    axis = node.attrs.get("axis", -1)
    rank = expansion.rank(x)
    if axis != -1 and axis + 1 != rank:
        expansion.refuse("A norm is taken over other axes than the last.", expected="axis -1", found=f"axis {axis}")
    if node.attrs.get("stash_type", _FLOAT) != _FLOAT:
        expansion.refuse(
            "A norm is computed in another type than float32.", found=f"stash_type {node.attrs['stash_type']}"
        )
    _refuse_statistics(expansion, node.outputs[1:])
    _rms_norm(expansion, x, weight, node.attrs.get("epsilon", 1e-5), node.outputs[0])


def skip_simplified_layer_normalization(expansion: Expansion, node: Node) -> None:
    """RMSNorm of input + skip (+ bias); the sum is the fourth output."""
    total = _sum(expansion, node, [*node.inputs[:2], *node.inputs[3:4]])
    _rms_norm(expansion, total, node.inputs[2], node.attrs.get("epsilon", 1e-12), node.outputs[0])


def skip_layer_normalization(expansion: Expansion, node: Node) -> None:
    """LayerNorm of input + skip (+ bias) with an optional shift; the sum is the fourth output."""
    total = _sum(expansion, node, [*node.inputs[:2], *node.inputs[4:5]])
    gamma, beta = node.inputs[2], node.inputs[3:4]
    attrs = {"axis": -1, "epsilon": node.attrs.get("epsilon", 1e-12)}
    inputs = [total, gamma, *(t for t in beta if t)]
    expansion.add("LayerNormalization", inputs, attrs=attrs, output=node.outputs[0])


def _sum(expansion: Expansion, node: Node, terms: list[str]) -> str:
    """The terms added up, under the name of the fourth output if there is one."""
    _refuse_statistics(expansion, node.outputs[1:3])
    first, *others = [term for term in terms if term]
    name = node.outputs[3] if len(node.outputs) > 3 else ""
    for index, other in enumerate(others):
        last = index == len(others) - 1
        first = expansion.add("Add", [first, other], output=name if last and name else None)
    return first


def _refuse_statistics(expansion: Expansion, outputs: list[str]) -> None:
    graph = expansion.graph
    if used := [name for name in outputs if name and (graph.users[name] or name in graph.outputs.values())]:
        expansion.refuse("The mean or deviation of a norm is used; only training needs them.", found=", ".join(used))


def _rms_norm(expansion: Expansion, x: str, weight: str, epsilon: float, output: str) -> None:
    types = expansion.graph.types
    weight = _vector(expansion, x, weight)
    wanted = types.get(weight)
    same = wanted in (None, "bfloat16", types.get(x))  # weights in bfloat16 are computed with in the type of x
    attrs = {"epsilon": float(epsilon)}
    y = expansion.add("RMSNorm", [x, weight], attrs=attrs, domain="tqc", output=output if same else None)
    if not same:
        expansion.add("Cast", [y], attrs={"to": _ONNX_TYPE[wanted]}, dtype=wanted, output=output)


def _vector(expansion: Expansion, x: str, weight: str) -> str:
    """The factors as a vector; one number stands for all."""
    known = expansion.value(weight) if expansion.weight(weight) is None else expansion.weight(weight)
    if known is None or (len(known.shape) == 1 and known.shape[0] > 1):
        return weight
    width = expansion.width(x)
    if math.prod(known.shape) != 1 or width is None:
        expansion.refuse("A norm's factors are no vector.", expected="[hidden]", found=str(list(known.shape)))
    return expansion.constant(np.full(width, known.reshape(()), known.dtype))


EXPANDERS = {
    "RMSNormalization": rms_normalization,
    "SimplifiedLayerNormalization": rms_normalization,
    "com.microsoft::SimplifiedLayerNormalization": rms_normalization,
    "com.microsoft::SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
    "com.microsoft::SkipLayerNormalization": skip_layer_normalization,
}
