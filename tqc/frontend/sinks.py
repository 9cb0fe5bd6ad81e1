"""Attention sinks: one more logit per query head beside the scores, which the softmax counts and nothing reads.

softmax([scores, sink])[..., :-1], as gpt-oss has it (Agarwal et al. 2025, "gpt-oss model card", §2.2).
"""

from __future__ import annotations

import numpy as np

from .facts import Facts
from .graph import Node

_LAST = (-1, 3)
_SPREADING = ("Reshape", "Expand", "Unsqueeze", "Cast")


def _without_maximum(facts: Facts, tensor: str) -> str:
    """x of x - max(x): softmax does not change by it, and some exporters write it out."""
    graph = facts.graph
    node = graph.producer.get(tensor)
    if node is None or node.kind != "Sub":
        return tensor
    largest = graph.producer.get(node.inputs[1])
    if largest is None or largest.kind != "ReduceMax" or largest.inputs[0] != node.inputs[0]:
        return tensor
    axes = largest.attrs.get("axes") or (facts.value(largest.inputs[1]) if len(largest.inputs) > 1 else None)
    keeps = largest.attrs.get("keepdims", 1)
    return node.inputs[0] if axes is not None and list(axes) in ([-1], [3]) and keeps else tensor


def _logits(facts: Facts, column: str) -> str:
    """The tensor [H] of numbers that `column` [B, H, S, 1] repeats over sequences and tokens, '' if it is none."""
    graph, tensor = facts.graph, column
    shapes = facts.shapes(column) or []
    while (node := graph.producer.get(tensor)) and node.kind in _SPREADING:
        tensor = node.inputs[0]
    found = graph.constants.get(tensor, graph.weights.get(tensor))
    if found is None or not shapes:
        return ""
    heads = int(np.prod(found.shape))
    # Operations on the way keep the order of the heads: only their axis has this length at all sizes.
    wanted = [(s.setting.batch, heads, s.setting.seq, 1) for s in facts.observed]
    return tensor if shapes == wanted else ""


def sinks_before(facts: Facts, softmax: Node) -> tuple[str, str]:
    """The scores that go into a softmax and the sink logits [H] beside them, '' where there are none."""
    graph = facts.graph
    tensor = softmax.inputs[0]
    while (node := graph.producer.get(tensor)) and node.kind == "Cast":
        tensor = node.inputs[0]
    joined = graph.producer.get(_without_maximum(facts, tensor))
    if joined is None or joined.kind != "Concat" or len(joined.inputs) != 2 or joined.attrs["axis"] not in _LAST:
        return softmax.inputs[0], ""
    scores, column = joined.inputs
    sinks = _logits(facts, column)
    return (scores, sinks) if sinks else (softmax.inputs[0], "")


def drops_last(facts: Facts, node: Node) -> bool:
    """Whether a node is x[..., :-1]."""
    if node.kind != "Slice" or len(node.inputs) < 4:
        return False
    starts, axes = facts.value(node.inputs[1]), facts.value(node.inputs[3])
    steps = facts.value(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    ends = facts.value(node.inputs[2])
    if ends is None:
        seen = [entry.values.get(node.inputs[2]) for entry in facts.observed]
        stops = all(
            v is not None and v.tolist() == [s.setting.total] for v, s in zip(seen, facts.observed, strict=True)
        )
    else:
        stops = ends.tolist() == [-1]
    whole = starts is not None and starts.tolist() == [0] and steps is not None and steps.tolist() == [1]
    return stops and whole and axes is not None and axes.tolist() in ([-1], [3])
