"""Replaces exporters' composite operations by the operations that the canonicaliser knows."""

from __future__ import annotations

from collections.abc import Callable

from tqc.errors import FrontendError
from tqc.frontend.graph import Graph, Node

from . import activations, choices, gqa, multi_head_attention, nbits, norms, onnx_attention, refused, rotary_embedding
from .context import Expansion

Expander = Callable[[Expansion, Node], None]

EXPANDERS: dict[str, Expander] = {
    **activations.EXPANDERS,
    **choices.EXPANDERS,
    **gqa.EXPANDERS,
    **multi_head_attention.EXPANDERS,
    **nbits.EXPANDERS,
    **norms.EXPANDERS,
    **onnx_attention.EXPANDERS,
    **refused.EXPANDERS,
    **rotary_embedding.EXPANDERS,
}
"""Kind of a node → what replaces it."""


def expand(graph: Graph, refused: list[FrontendError] | None = None) -> None:
    """Rewrites `graph` in place, node by node, in time linear in the graph.

    Raises FrontendError, naming the node, for options and operands that are not supported; with a list `refused`, the
    error is added to it and the node stays.
    """
    expansion = Expansion(graph)
    for node in graph.nodes:
        expander = EXPANDERS.get(node.kind, Expansion.keep)
        expansion.begin(node)
        try:
            expander(expansion, node)
        except FrontendError as error:
            if refused is None:
                raise
            refused.append(error)
            expansion.keep(node)
    graph.replace(expansion.nodes)
