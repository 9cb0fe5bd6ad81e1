"""Replaces exporters' composite operations by the operations that the canonicaliser knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tqc.errors import FrontendError
from tqc.frontend.graph import Graph, Node

from . import activations, choices, gqa, multi_head_attention, nbits, norms, onnx_attention, rotary_embedding
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
    **rotary_embedding.EXPANDERS,
}
"""Kind of a node → what replaces it."""


_LARGEST = 2**31 - 1
"""Runtimes cut integer attributes to 32 bits, each in its own way."""
_FLAGS = ("do_rotary", "interleaved", "rotary_interleaved", "is_causal", "unidirectional", "smooth_softmax")
"""Attributes that are 0 or 1: runtimes disagree about other numbers."""


def _check_integers(expansion: Expansion, node: Node) -> None:
    for name in _FLAGS:
        # onnxruntime's default of smooth_softmax is -1, for "not said".
        if node.attrs.get(name, 0) not in ((-1, 0, 1) if name == "smooth_softmax" else (0, 1)):
            expansion.refuse("An attribute is neither 0 nor 1.", found=f"{name} {node.attrs[name]}")
    for name, value in node.attrs.items():
        if isinstance(value, int) and abs(value) > _LARGEST:
            expansion.refuse("An attribute is out of range.", found=f"{name} {value}")


def _malformed(node: Node, cause: Exception) -> FrontendError:
    """ONNX does not define these operations, so that nothing has checked their operands and attributes before."""
    return FrontendError(
        "An operation lacks operands or attributes, or has some of the wrong type.",
        where=node.label,
        found=f"{type(cause).__name__}: {cause}",
    )


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
            if node.kind in EXPANDERS:
                _check_integers(expansion, node)
            expander(expansion, node)
        except (FrontendError, ArithmeticError, LookupError, TypeError, ValueError) as cause:
            error = cause if isinstance(cause, FrontendError) else _malformed(node, cause)
            if refused is None:
                raise error from None
            refused.append(error)
            expansion.keep(node)
    graph.replace(expansion.nodes)
    for node in graph.nodes:
        for tensor in node.inputs:
            array = graph.constants.get(tensor)
            if array is not None and array.dtype.kind == "f" and np.isnan(array).any():
                raise FrontendError("A constant is not a number.", where=node.label, found=tensor)
