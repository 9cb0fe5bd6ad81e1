"""From the keys or values that an attention reads back to the graph's cache input, and what is then known of it."""

from __future__ import annotations

from dataclasses import replace

from .context import Expansion

_PASSES = ("Reshape", "Expand", "Unsqueeze", "Squeeze", "Tile", "Transpose", "Cast", "Mul", "Div")
"""Kinds between the concatenation of past and new tokens and the operand of attention."""


def cache_of(e: Expansion, tensor: str) -> str:
    """The graph input, [B, kv_heads, P, D], that `tensor` begins with, '' if there is none to be seen."""
    graph = e.graph
    while node := graph.producer.get(tensor):
        if node.kind == "Concat" and len(node.inputs) == 2 and node.inputs[0] in graph.inputs:
            tensor = node.inputs[0]
            break
        operands = [t for t in node.inputs if t and t not in graph.constants]
        if node.kind not in _PASSES or not operands:
            return ""
        tensor = operands[0]
    return tensor if tensor in graph.inputs and len(graph.inputs[tensor].shape) == 4 else ""


def pin_head_dim(e: Expansion, cache: str, dim: int) -> None:
    """Writes the head_dim into a cache input whose last axis has only a name."""
    entry = e.graph.inputs.get(cache)
    if entry and len(entry.shape) == 4 and not isinstance(entry.shape[3], int):
        e.graph.inputs[cache] = replace(entry, shape=(*entry.shape[:3], dim))
