"""Fuses rotary position embedding, x·cos + rotate_half(x)·sin, to `tqc::Rope` (Su et al. 2021, eq. 34).

The form of the application is matched along the graph; where cos and sin come from is recognised by their values, so
that positions may be an input, a range behind the cache, or counted from the attention mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dependence import Source
from .facts import Facts
from .graph import Graph, Node

_TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
_ANGLE_ROUNDING = {"float32": 0.0, "float16": 2.0**-10}
"""Of an angle that was itself computed in this type. It is not imitated: onnxruntime's CPU provider does not either."""


@dataclass(frozen=True)
class _Angles:
    inv_freq: np.ndarray
    scaling: float


def _products(graph: Graph, node: Node | None, *kinds: str) -> tuple[Node, Node] | None:
    """The two products whose sum, or other combination in `kinds`, a node is."""
    if node is None or node.kind not in kinds:
        return None
    found = [graph.producer.get(t) for t in node.inputs]
    return tuple(found) if all(p is not None and p.kind == "Mul" for p in found) else None


def _by_source(sources: dict[str, Source], product: Node) -> tuple[str, str] | None:
    """(data, angle) operands of a product, None if it has not one of each."""
    data = [Source.DATA in sources[t] for t in product.inputs]
    if data == [True, False]:
        return product.inputs[0], product.inputs[1]
    return (product.inputs[1], product.inputs[0]) if data == [False, True] else None


def angle_tensors(graph: Graph, sources: dict[str, Source]) -> set[str]:
    """Every tensor that may be the cos or sin of a rotary embedding, to be probed for `fuse_rotary`."""
    found = set()
    for node in graph.nodes:
        for product in _products(graph, node, "Add", "Sub") or ():
            if operands := _by_source(sources, product):
                found.add(operands[1])
    return {tensor for tensor in found if tensor in graph.producer}


def _is_half(facts: Facts, tensor: str, x: str, start: int, end: int) -> bool:
    """Whether `tensor` is x[..., start:end]."""
    node = facts.graph.producer.get(tensor)
    if node is None:
        return False
    if node.kind == "Split":
        sizes = facts.value(node.inputs[1]) if len(node.inputs) > 1 else None
        halves = len(node.outputs) == 2 and (sizes is None or len(set(sizes.tolist())) == 1)
        return (
            node.inputs[0] == x
            and node.attrs.get("axis") in (-1, 3)
            and halves
            and (tensor == node.outputs[1 if start else 0])
        )
    if node.kind != "Slice" or node.inputs[0] != x or len(node.inputs) < 4:
        return False
    starts, ends, axes = (facts.value(t) for t in node.inputs[1:4])
    steps = facts.value(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1, np.int64)
    if any(v is None or v.size != 1 for v in (starts, ends, axes, steps)):
        return False
    stop = int(ends.item())
    reaches = stop == end or (start > 0 and stop >= end)
    return int(starts.item()) == start and reaches and int(axes.item()) in (-1, 3) and int(steps.item()) == 1


def _rotates(facts: Facts, tensor: str, x: str, dim: int) -> bool:
    """Whether `tensor` is concat(-x[..., dim/2:], x[..., :dim/2])."""
    graph = facts.graph
    joined = graph.producer.get(tensor)
    if joined is None or joined.kind != "Concat" or len(joined.inputs) != 2 or joined.attrs["axis"] not in (-1, 3):
        return False
    negated = graph.producer.get(joined.inputs[0])
    if negated is None or negated.kind != "Neg":
        return False
    half = dim // 2
    return _is_half(facts, negated.inputs[0], x, half, dim) and _is_half(facts, joined.inputs[1], x, 0, half)


def _scaling(facts: Facts, cos: str, found: float, tolerance: float) -> float:
    """The factor on cos and sin: a constant of the graph, or 1, if one is what was seen, else what was seen."""
    constants = (facts.graph.constants.get(t) for t in facts.graph.ancestors([cos], values_only=True))
    exact = [float(c.reshape(())) for c in constants if c is not None and c.size == 1 and c.dtype.kind == "f"]
    nearest = min([1.0, *exact], key=lambda value: abs(value - found))
    return nearest if abs(nearest - found) <= tolerance else found


def _angles(facts: Facts, cos: str, sin: str, dim: int, dtype: str) -> _Angles | None:
    """f and a with cos = a·cos(position·f) and sin = a·sin(position·f) at every size tried, None if there are none."""
    tolerance = _TOLERANCE.get(dtype)
    graph = facts.graph
    constants = (graph.constants.get(t) for t in graph.ancestors([cos, sin], values_only=True))
    rows = {c.reshape(-1).tobytes(): c.reshape(-1) for c in constants if c is not None and c.size == dim // 2}
    frequencies = [row.astype(np.float32) for row in rows.values() if row.dtype in (np.float32, np.float16)]
    if len(frequencies) != 1 or tolerance is None or facts.bends([cos, sin]):
        return None
    (inv_freq,) = frequencies
    first = facts.observed[0].values
    norm = float(np.sqrt(np.mean(first[cos].astype(np.float64) ** 2 + first[sin].astype(np.float64) ** 2)))
    scaling = _scaling(facts, cos, norm, tolerance)
    for seen in facts.observed:
        repeats = max(1, seen.values[cos].shape[-1] // inv_freq.size)
        angle = seen.setting.positions()[:, None, :, None] * np.tile(inv_freq.astype(np.float64), repeats)
        for tensor, function in ((cos, np.cos), (sin, np.sin)):
            found, expected = seen.values[tensor], scaling * function(angle)
            if found.ndim != 4 or found.shape[1:] != expected.shape[1:] or found.shape[0] not in (1, len(expected)):
                return None
            rounded = np.abs(angle) * _ANGLE_ROUNDING[dtype]
            if not (np.abs(found - expected) <= (tolerance + rounded) * max(scaling, 1)).all():
                return None
    return _Angles(inv_freq, scaling)


def _match(facts: Facts, node: Node, known: dict[tuple[str, str], _Angles | None]) -> tuple[str, _Angles] | None:
    graph = facts.graph
    products = _products(graph, node, "Add")
    if products is None:
        return None
    operands = [_by_source(facts.sources, product) for product in products]
    if None in operands:
        return None
    for (x, cos), (rotated, sin) in (operands, operands[::-1]):
        if cos not in facts.observed[0].values or sin not in facts.observed[0].values:
            continue
        dim = facts.observed[0].values[cos].shape[-1] if facts.observed[0].values[cos].ndim else 0
        if not dim or not _rotates(facts, rotated, x, dim):
            continue
        if (cos, sin) not in known:
            known[cos, sin] = _angles(facts, cos, sin, dim, graph.types.get(cos, ""))
        return (x, known[cos, sin]) if known[cos, sin] else None
    return None


def _match_halves(facts: Facts, node: Node, known: dict[tuple[str, str], _Angles | None]) -> tuple[str, _Angles] | None:
    """As `_match`, of concat(a·cos - b·sin, b·cos + a·sin), where a and b are the halves of x (gpt-oss)."""
    graph = facts.graph
    if node.kind != "Concat" or len(node.inputs) != 2 or node.attrs["axis"] not in (-1, 3):
        return None
    first, second = (graph.producer.get(tensor) for tensor in node.inputs)
    products = [*(_products(graph, first, "Sub") or ()), *(_products(graph, second, "Add") or ())]
    operands = [_by_source(facts.sources, product) for product in products]
    if len(operands) != 4 or None in operands:
        return None
    (a, cos), (b, sin) = operands[:2]
    if {(b, cos), (a, sin)} != set(operands[2:]) or cos == sin:
        return None
    source = graph.producer.get(a)
    values = facts.observed[0].values
    if source is None or cos not in values or sin not in values or not values[cos].ndim:
        return None
    x, half = source.inputs[0], values[cos].shape[-1]
    if not half or not _is_half(facts, a, x, 0, half) or not _is_half(facts, b, x, half, 2 * half):
        return None
    if (cos, sin) not in known:
        known[cos, sin] = _angles(facts, cos, sin, 2 * half, graph.types.get(cos, ""))
    return (x, known[cos, sin]) if known[cos, sin] else None


def fuse_rotary(facts: Facts) -> None:
    """Replaces every rotate-half embedding of whole heads by constant frequencies; leaves others as they are."""
    graph = facts.graph
    known: dict[tuple[str, str], _Angles | None] = {}
    names: dict[bytes, str] = {}
    for node in graph.nodes:
        if (found := _match(facts, node, known) or _match_halves(facts, node, known)) is None:
            continue
        x, angles = found
        name = names.setdefault(angles.inv_freq.tobytes(), f"inv_freq/{len(names)}")
        graph.constants[name] = angles.inv_freq
        graph.define(Node("Rope", [x, name], node.outputs, {"scaling": angles.scaling}, node.name, "tqc"))
