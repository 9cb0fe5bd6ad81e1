"""Fuses decomposed RMSNorm, x / sqrt(mean(x²) + ε) · weight, to `tqc::RMSNorm` (Zhang & Sennrich 2019, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

from .facts import Facts
from .graph import Graph, Node


@dataclass(frozen=True)
class _Norm:
    x: str
    weight: str
    epsilon: float
    output: str


def _is_square(facts: Facts, node: Node | None) -> bool:
    if node is None:
        return False
    if node.kind == "Pow":
        return facts.scalar(node.inputs[1]) == 2
    return node.kind == "Mul" and node.inputs[0] == node.inputs[1]


def _only_user(graph: Graph, tensor: str, *kinds: str) -> Node | None:
    users = graph.users[tensor]
    return users[0] if len(users) == 1 and users[0].kind in kinds else None


def _other(node: Node, tensor: str) -> str:
    return node.inputs[1] if node.inputs[0] == tensor else node.inputs[0]


def _normalised(facts: Facts, x: str, root: Node) -> Node | None:
    """The node that divides x by the root."""
    graph = facts.graph
    user = _only_user(graph, root.outputs[0], "Div", "Reciprocal")
    if user is None:
        return None
    if user.kind == "Div" and user.inputs == [x, root.outputs[0]]:
        return user
    if user.kind == "Div" and facts.scalar(user.inputs[0]) != 1:
        return None
    product = _only_user(graph, user.outputs[0], "Mul")
    return product if product and _other(product, user.outputs[0]) == x else None


def _match(facts: Facts, mean: Node) -> _Norm | None:
    graph = facts.graph
    axes = mean.attrs.get("axes")
    if axes is None and len(mean.inputs) > 1 and (value := facts.value(mean.inputs[1])) is not None:
        axes = value.tolist()
    square = graph.producer.get(mean.inputs[0])
    if axes != [-1] or not mean.attrs.get("keepdims", 1) or not _is_square(facts, square):
        return None
    x = square.inputs[0]
    shifted = _only_user(graph, mean.outputs[0], "Add")
    epsilon = facts.scalar(_other(shifted, mean.outputs[0])) if shifted else None
    root = _only_user(graph, shifted.outputs[0], "Sqrt") if shifted else None
    node = _normalised(facts, x, root) if root and epsilon is not None else None
    if node is None:
        return None
    if cast := _only_user(graph, node.outputs[0], "Cast"):
        node = cast
    scaled = _only_user(graph, node.outputs[0], "Mul")
    if scaled is None:
        return None
    weight = _other(scaled, node.outputs[0])
    array = graph.weights.get(weight, facts.value(weight))
    if array is None or len(array.shape) != 1 or array.shape[0] == 1:  # one factor for the whole row is no weight
        return None
    return _Norm(x, weight, epsilon, scaled.outputs[0])


def fuse_norms(facts: Facts) -> None:
    """Replaces every decomposed RMSNorm over the last axis; leaves others as they are."""
    graph = facts.graph
    for mean in graph.nodes:
        if mean.kind != "ReduceMean" or (norm := _match(facts, mean)) is None:
            continue
        x, wanted = norm.x, graph.types[norm.output]
        widened = graph.producer.get(x)
        # The dialect's op takes the mean in float32 itself: a float16 x need not be widened before.
        if widened and widened.kind == "Cast" and graph.types[widened.inputs[0]] == wanted:
            x = widened.inputs[0]
        output = norm.output
        if graph.types[x] != wanted:
            output = f"{norm.output}/wide"
            graph.types[output] = graph.types[x]
            graph.define(Node("Cast", [output], [norm.output], name=f"{mean.name}/cast"))
        graph.define(Node("RMSNorm", [x, norm.weight], [output], {"epsilon": norm.epsilon}, mean.name, "tqc"))
