"""Replaces exporters' composite operations by the operations that the canonicaliser knows."""

from __future__ import annotations

from collections.abc import Callable

from tqc.frontend.graph import Graph, Node

from . import activations, nbits, norms
from .context import Expansion

Expander = Callable[[Expansion, Node], None]

EXPANDERS: dict[str, Expander] = {
    **activations.EXPANDERS,
    **nbits.EXPANDERS,
    **norms.EXPANDERS,
}
"""Kind of a node → what replaces it."""


def expand(graph: Graph) -> None:
    """Rewrites `graph` in place, node by node, in time linear in the graph.

    Raises FrontendError, naming the node, for options and operands that are not supported.
    """
    expansion = Expansion(graph)
    for node in graph.nodes:
        if expander := EXPANDERS.get(node.kind):
            expansion.begin(node)
            expander(expansion, node)
        else:
            expansion.keep(node)
    graph.replace(expansion.nodes)
