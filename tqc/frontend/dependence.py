"""What a tensor's VALUES depend on. Shapes do not count: `Shape(x)` depends on nothing, whatever x is."""

from __future__ import annotations

from enum import Flag

from tqc.errors import FrontendError

from .graph import Graph
from .interface import Interface


class Source(Flag):
    """What flows into a tensor; the empty flag means sizes and constants alone."""

    NOTHING = 0
    DATA = 1
    MASK = 2
    POSITIONS = 4


def dependences(graph: Graph, interface: Interface) -> dict[str, Source]:
    """Tensor → what it depends on. Tokens, cache and weights are DATA. Raises FrontendError for undefined tensors."""
    found = dict.fromkeys(graph.inputs, Source.DATA) | dict.fromkeys(graph.weights, Source.DATA)
    found |= dict.fromkeys(graph.constants, Source.NOTHING)
    found |= {interface.mask: Source.MASK, interface.positions: Source.POSITIONS, "": Source.NOTHING}
    for node in graph.nodes:
        source = Source.NOTHING
        if node.kind not in ("Shape", "Size"):
            for name in node.inputs:
                if name not in found:
                    raise FrontendError("A tensor is used but defined nowhere.", where=node.label, found=name)
                source |= found[name]
        found |= dict.fromkeys(filter(None, node.outputs), source)
    return found
