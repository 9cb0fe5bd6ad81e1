"""What is known of a graph's values: constants, and what probes saw at several sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.errors import FrontendError

from .claims import Claimed
from .dependence import Source
from .graph import Graph, Node
from .probe import Observed, Probe
from .setting import Setting

SETTINGS = (
    Setting(2, 3, 5),
    Setting(3, 4, 7),
    Setting(2, 5, 11),
    Setting(1, 6, 13),
    Setting(2, 1, 9),
    Setting(1, 7, 0),
)
"""Sizes at which batch, seq, past, their sum and their products all take different courses; the last two are a step of
decoding and a first prompt, for which a graph may do something of their own."""

_RESHAPING = ("Reshape", "Expand")

_LONGEST = max(setting.total for setting in SETTINGS)
_NO_LIMIT = 1 << 31
_BENDING = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Min", "Max", "Clip", "Mod"})
"""Kinds with which a graph can do one thing for short sequences and another for long ones."""


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
        same = all(np.array_equal(first, other) for other in others)
        return first if same and not self.bends([tensor]) else None

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

    def positions_from(self, tensor: str) -> int | None:
        """n where the tensor holds the positions of the new tokens, [batch or 1, seq], plus n at all sizes, else None.

        Graphs without position_ids count them from the sizes or the attention mask.
        """
        if self.is_data(tensor) or tensor not in self.observed[0].values:
            return None
        offsets: set[int] = set()
        for seen in self.observed:
            found, expected = seen.values[tensor], seen.setting.positions()
            if found.dtype.kind != "i" or found.ndim != 2 or found.shape not in (expected.shape, expected[:1].shape):
                return None
            offsets.update(np.unique(found - expected).tolist())
        return offsets.pop() if len(offsets) == 1 and not self.bends([tensor]) else None

    def bends(self, tensors: list[str]) -> bool:
        """Whether tensors may say something else at sizes beyond those observed.

        That takes a comparison with a number that no observed size reaches, as in "long factors from 4096 tokens on".
        """
        graph = self.graph
        near = graph.ancestors(tensors, values_only=True)
        nodes = {id(graph.producer[t]): graph.producer[t] for t in near if t in graph.producer}
        numbers = (t for node in nodes.values() if node.kind in _BENDING for t in node.inputs if t in graph.constants)
        arrays = (graph.constants[t] for t in numbers)
        return any(bool(((_LONGEST < np.abs(a)) & (np.abs(a) < _NO_LIMIT)).any()) for a in arrays if a.dtype != bool)

    def is_data(self, tensor: str) -> bool:
        return Source.DATA in self.sources.get(tensor, Source.DATA)


def _bookkeeping_into(node: Node, sources: dict[str, Source], constants: dict[str, np.ndarray]) -> list[str]:
    """The operands of a node that are computed from sizes and the attention mask alone."""
    return [t for t in node.inputs if t and t not in constants and sources[t] in (Source.NOTHING, Source.MASK)]


def _live(source: Source) -> bool:
    """Whether tensors of this kind may remain in the canonical graph."""
    return bool(source & (Source.DATA | Source.POSITIONS))


def observe(graph: Graph, sources: dict[str, Source], extra: set[str]) -> Facts:
    """Probes every size computation that live nodes use, every reshaped tensor, and the tensors in `extra`.

    Checks the graph's claims and clears them; raises FrontendError where one does not hold.
    """
    wanted, shapes = set(extra), set()
    for node in graph.nodes:
        if not _live(sources[node.outputs[0]]):
            continue
        wanted.update(_bookkeeping_into(node, sources, graph.constants))
        if node.kind in _RESHAPING:
            shapes.add(node.outputs[0])
    wanted.update(claimed.tensor for claimed in graph.claims if claimed.tensor not in graph.constants)
    probe = Probe(graph, wanted, shapes)
    facts = Facts(graph, sources, tuple(probe.run(setting) for setting in SETTINGS))
    for claimed in graph.claims:
        _check(claimed, facts)
    graph.claims.clear()
    return facts


def _check(claimed: Claimed, facts: Facts) -> None:
    tensor, constant = claimed.tensor, facts.graph.constants.get(claimed.tensor)
    values = [seen.values.get(tensor, constant) for seen in facts.observed]
    holds = all(claimed.claim.holds(v, seen.setting) for v, seen in zip(values, facts.observed, strict=True))
    holds = holds and not facts.bends([tensor])
    if facts.is_data(tensor) or not holds:
        raise FrontendError(
            "An operand does not hold what it should.",
            where=f"{claimed.where}, operand {tensor}",
            expected=claimed.claim.value,
            found="a value computed from the model's data" if facts.is_data(tensor) else f"{values[0].tolist()}"[:80],
        )
