"""Logits of every token in graphs that compute those of the last one: the runtime picks the rows it wants itself."""

from __future__ import annotations

import numpy as np

from .graph import Graph, Node

_ROW_WISE = frozenset(
    {"MatMul", "tqc::MatMulNBits", "Add", "Sub", "Mul", "Div", "Tanh", "Cast", "tqc::RMSNorm", "LayerNormalization"}
)
"""Kinds that treat every row [hidden] alike where all other operands are constants and weights."""


def compute_every_row(graph: Graph, logits: str) -> None:
    """Drops, in place, the choice of the last token [B, S, hidden] → [B, 1, hidden] before the output `logits`.

    Graphs without one stay as they are.
    """
    tensor = graph.outputs[logits]
    while (node := graph.producer.get(tensor)) and len(graph.users[tensor]) < 2:
        if source := _chosen_from(graph, node):
            for user in graph.users[tensor]:
                user.inputs = [source if name == tensor else name for name in user.inputs]
            graph.prune()
            return
        computed = {name for name in node.inputs if name in graph.producer}
        if node.kind not in _ROW_WISE or len(computed) != 1 or (node.kind == "MatMul" and node.inputs[1] in computed):
            return
        (tensor,) = computed


def _chosen_from(graph: Graph, node: Node) -> str:
    """x where a node computes x[:, -1:], '' for every other node."""
    if node.kind == "Unsqueeze" and _is(graph, node.inputs[1:], 1):
        inner = graph.producer.get(node.inputs[0])
        return inner.inputs[0] if inner and _gathers_last(graph, inner, rank=0) else ""
    if node.kind == "Slice" and _is(graph, node.inputs[1:2], -1) and _is(graph, node.inputs[3:4], 1):
        end = graph.constant(node.inputs[2])
        whole = end is not None and end.size == 1 and int(end.reshape(())) >= np.iinfo(np.int32).max
        return node.inputs[0] if whole and (len(node.inputs) < 5 or _is(graph, node.inputs[4:5], 1)) else ""
    return node.inputs[0] if _gathers_last(graph, node, rank=1) else ""


def _gathers_last(graph: Graph, node: Node, rank: int) -> bool:
    index = graph.constant(node.inputs[1]) if node.kind == "Gather" else None
    return (
        index is not None and index.ndim == rank and node.attrs.get("axis", 0) == 1 and _is(graph, node.inputs[1:], -1)
    )


def _is(graph: Graph, operands: list[str], number: int) -> bool:
    """Whether there is one operand, a constant with this one number."""
    values = [graph.constant(name) for name in operands]
    return len(values) == 1 and values[0] is not None and values[0].reshape(-1).tolist() == [number]
