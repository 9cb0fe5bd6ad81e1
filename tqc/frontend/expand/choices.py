"""If between constants: what holds for every length up to a limit is taken, and the limit kept.

LongRoPE (Ding et al. 2024) has one set of frequencies for sequences up to the length the model was first trained for
and another beyond; transformers recomputes the whole cache when a sequence crosses it. Keys in the cache are rotated
once and for all, so an artifact can serve the first set alone.
"""

from __future__ import annotations

import numpy as np

from tqc.frontend.branches import ELSE, THEN
from tqc.frontend.claims import Claim
from tqc.frontend.graph import Node
from tqc.frontend.weights import ArrayTensor, Weight

from .context import Expansion

_FLIPPED = {"Greater": "Less", "GreaterOrEqual": "LessOrEqual", "Less": "Greater", "LessOrEqual": "GreaterOrEqual"}
_SHORT = {"Greater": (ELSE, 0), "GreaterOrEqual": (ELSE, -1), "Less": (THEN, -1), "LessOrEqual": (THEN, 0)}
"""Comparison of the length with n → the branch of short sequences, and the longest of them minus n."""


def choose(expansion: Expansion, node: Node) -> None:
    """Takes the branch for short sequences; refuses conditions that do not compare the length with a constant."""
    branches = node.attrs[THEN], node.attrs[ELSE]
    same = len(branches[0]) == len(branches[1]) == len(node.outputs)
    if same and all(np.array_equal(a, b) for a, b in zip(*branches, strict=True)):
        return _define(expansion, node, branches[0])
    length, kind, number = _comparison(expansion, node.inputs[0])
    branch, offset = _SHORT[kind]
    limit = number + offset
    if limit < 1:
        expansion.refuse("A choice that leaves no length for one of its branches.", found=f"{kind} {number}")
    expansion.claim(length, Claim.TOTAL)
    graph = expansion.graph
    graph.longest = min(limit, graph.longest or limit)
    return _define(expansion, node, node.attrs[branch])


def _comparison(expansion: Expansion, condition: str) -> tuple[str, str, int]:
    """(tensor, comparison, number) of `tensor > number` and the like."""
    node = expansion.graph.producer.get(condition)
    if node is not None and node.kind in _SHORT:
        left, right = node.inputs
        for tensor, constant, kind in ((left, right, node.kind), (right, left, _FLIPPED[node.kind])):
            value = expansion.value(constant)
            if value is not None and value.size == 1 and expansion.value(tensor) is None:
                return tensor, kind, int(value.reshape(()))
    expansion.refuse(
        "A choice that is not understood.",
        expected="the number of cached and new tokens compared with a constant",
        found=node.label if node else condition,
        hint="Export the model without If.",
    )


def _define(expansion: Expansion, node: Node, arrays: tuple[np.ndarray, ...]) -> None:
    graph = expansion.graph
    for name, array in zip(node.outputs, arrays, strict=True):
        graph.types[name] = str(array.dtype)
        if array.ndim == 2:
            graph.weights[name] = Weight(name, array.shape, str(array.dtype), ArrayTensor(array), name)
        else:
            graph.constants[name] = array


EXPANDERS = {"If": choose}
