"""The residual stream that an attention's output is added to: what an error of the output is small or large against."""

from __future__ import annotations

from .attention import Match
from .graph import Graph

_LAYOUT = frozenset({"Transpose", "Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"})
_STEPS = 12


def residual_of(graph: Graph, match: Match) -> str:
    """The sum of the residual stream and the attention's output behind its weight; '' where there is no such sum.

    Bias and layout may lie in between; a norm of the output, as in Gemma 2, makes errors relative to something else.
    """
    tensor, multiplied = match.y, False
    for _ in range(_STEPS):
        users = [user for user in graph.users[tensor] if user.kind != "Shape"]
        if len(users) != 1:
            return ""
        (node,) = users
        fixed = [name in graph.constants or name in graph.weights for name in node.inputs]
        if node.kind in ("MatMul", "Gemm", "tqc::MatMulNBits") and node.inputs[0] == tensor:
            multiplied = True
        elif node.kind == "Add" and not any(fixed):
            return node.outputs[0] if multiplied else ""
        elif node.kind not in _LAYOUT and node.kind != "Add":
            return ""
        tensor = node.outputs[0]
    return ""
