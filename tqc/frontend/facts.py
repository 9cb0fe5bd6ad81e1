"""What is known of a graph's values: constants, and what probes saw at several sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dependence import Source
from .graph import Graph, Node
from .probe import Observed, Probe, Setting

SETTINGS = (Setting(2, 3, 5), Setting(3, 4, 7), Setting(2, 5, 11), Setting(1, 6, 13))
"""Sizes at which batch, seq, past, their sum and their products all take different courses."""

_RESHAPING = ("Reshape", "Expand")


@dataclass(eq=False)
class Facts:
    """Looks tensors up; `observed` holds one entry per setting of SETTINGS."""

    graph: Graph
    sources: dict[str, Source]
    observed: tuple[Observed, ...]

    def value(self, tensor: str) -> np.ndarray | None:
        """The tensor's value if it is the same at all sizes, else None."""
        if tensor in self.graph.constants:
            return self.graph.constants[tensor]
        if self.sources.get(tensor, Source.DATA) is not Source.NOTHING or tensor not in self.observed[0].values:
            return None
        first, *others = (seen.values[tensor] for seen in self.observed)
        return first if all(np.array_equal(first, other) for other in others) else None

    def scalar(self, tensor: str) -> float | None:
        """The value of a one-element tensor that is the same at all sizes, else None."""
        value = self.value(tensor)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def shapes(self, tensor: str) -> list[tuple[int, ...]] | None:
        """The tensor's shape at each setting, None if it was not observed."""
        if tensor in self.observed[0].shapes:
            return [seen.shapes[tensor] for seen in self.observed]
        if tensor in self.observed[0].values:
            return [seen.values[tensor].shape for seen in self.observed]
        return None

    def is_data(self, tensor: str) -> bool:
        return Source.DATA in self.sources[tensor]


def _sizes_into(node: Node, sources: dict[str, Source], constants: dict[str, np.ndarray]) -> list[str]:
    """The operands of a node that are computed from sizes alone."""
    return [t for t in node.inputs if t and t not in constants and sources[t] is Source.NOTHING]


def _live(source: Source) -> bool:
    """Whether tensors of this kind may remain in the canonical graph."""
    return bool(source & (Source.DATA | Source.POSITIONS))


def observe(graph: Graph, sources: dict[str, Source], extra: set[str]) -> Facts:
    """Probes every size computation that live nodes use, every reshaped tensor, and the tensors in `extra`."""
    wanted, shapes = set(extra), set()
    for node in graph.nodes:
        if not _live(sources[node.outputs[0]]):
            continue
        wanted.update(_sizes_into(node, sources, graph.constants))
        if node.kind in _RESHAPING:
            shapes.add(node.outputs[0])
    probe = Probe(graph, wanted, shapes)
    return Facts(graph, sources, tuple(probe.run(setting) for setting in SETTINGS))
