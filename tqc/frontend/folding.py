"""Replaces size arithmetic by its results: constants, and Reshape and Expand with explicit dimensions."""

from __future__ import annotations

import numpy as np

from tqc.errors import FrontendError

from .dependence import Source
from .facts import Facts
from .graph import Graph, Node
from .interface import POSITIONS
from .sizes import fit_shape

DIMS = "dims"
"""Attribute of a folded Reshape or Expand: its result's shape, a tuple of Dim."""


def _shifted(graph: Graph, tensor: str, offset: int) -> str:
    """The runtime's positions plus `offset`, in place of what the graph counts by itself."""
    if not offset:
        return POSITIONS
    name, constant = f"{tensor}/positions", f"{tensor}/offset"
    graph.constants[constant] = np.array(offset, np.int64)
    graph.define(Node("Add", [POSITIONS, constant], [name]))
    graph.types[name] = "int64"
    return name


def take_positions(graph: Graph, facts: Facts) -> None:
    """Puts the runtime's positions in place of those that the graph counts by itself, wherever data meets them."""
    for node in graph.nodes:
        if Source.DATA not in facts.sources.get(node.outputs[0], Source.DATA):
            continue
        for index, tensor in enumerate(node.inputs):
            if tensor and tensor not in graph.constants and (offset := facts.positions_from(tensor)) is not None:
                node.inputs[index] = _shifted(graph, tensor, offset)
    graph.prune()


def fold(graph: Graph, facts: Facts) -> None:
    """Folds every node that is left, in place.

    Raises FrontendError, naming every node, where an operand depends on sizes in a way that has no closed form.
    """
    take_positions(graph, facts)
    settings = [seen.setting for seen in facts.observed]
    failed = []
    for node in graph.nodes:
        if node.domain or not facts.sources.get(node.outputs[0]):
            continue
        if node.op in ("Reshape", "Expand"):
            shapes = facts.shapes(node.outputs[0])
            dims = fit_shape(shapes, settings) if shapes else None
            if dims is None:
                failed.append(node.label)
                continue
            graph.define(Node(node.op, node.inputs[:1], node.outputs, {DIMS: dims}, node.name))
            continue
        for index, tensor in enumerate(node.inputs):
            if not tensor or tensor in graph.constants or facts.sources.get(tensor, Source.DATA):
                continue
            value = facts.value(tensor)
            if value is None:
                failed.append(node.label)
                break
            node.inputs[index] = folded = f"{tensor}/folded"
            graph.constants[folded] = value
    if failed:
        raise FrontendError(
            "Operands whose size arithmetic is not understood.",
            where="; ".join(failed),
            hint="Positions must enter through RoPE, a table of embeddings or the position_ids input.",
        )
    graph.prune()
