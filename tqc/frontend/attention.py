"""Finds the attention of each layer: softmax(scores + mask)·V over a concatenation of past and fresh keys and values.

The matcher walks from each Softmax along the graph and is generous about layout operations in between; then it
checks by value that they amount to repeating each KV head over its query heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tqc.errors import FrontendError

from .facts import Facts
from .graph import Graph, Node
from .interface import Interface, LayerCache
from .masks import forbids
from .probe import feed
from .sinks import drops_last, sinks_before

_LAYOUT = ("Reshape", "Expand", "Unsqueeze", "Tile", "Transpose", "Cast", "Squeeze")


@dataclass(frozen=True)
class Match:
    """One attention by the names of its tensors: q [B, H, S, D], k and v [B, Hk, S, D] fresh, y [B, H, S, D].

    `masks` are added to the scores, or, if boolean, select them, before these are multiplied by `mask_factor` or more;
    `sinks` [H] are logits beside them, '' without.
    """

    softmax: Node
    layer: int
    query_heads: int
    q: str
    k: str
    v: str
    present_k: str
    present_v: str
    y: str
    scale: float
    softcap: float
    masks: tuple[str, ...]
    sinks: str = ""
    mask_factor: float = 1.0


class _Mismatch(Exception):
    pass


def products(graph: Graph) -> set[str]:
    """Operands of the products of two activations (scores, values), to be probed so that `find` can look at them."""
    pairs = (n.inputs for n in graph.nodes if n.kind == "MatMul" and all(t in graph.producer for t in n.inputs))
    return {tensor for pair in pairs for tensor in pair}


def _values_product(facts: Facts, softmax: Node, has_sinks: bool) -> Node:
    graph, tensor = facts.graph, softmax.outputs[0]
    for _ in range(8):
        users = [user for user in graph.users[tensor] if user.kind != "IsNaN"]
        if len(users) != 1:
            raise _Mismatch(f"its result has {len(users)} users")
        (user,) = users
        if user.kind == "MatMul" and user.inputs[0] == tensor and not has_sinks:
            return user
        if has_sinks and drops_last(facts, user):
            has_sinks, tensor = False, user.outputs[0]
            continue
        guard = user.kind == "Where" and graph.op(user.inputs[0]) == "IsNaN" and user.inputs[2] == tensor
        if not guard and user.kind != "Cast":
            break
        tensor = user.outputs[0]
    raise _Mismatch(f"its result goes to {user.kind}, not to a product with the values")


def _peel_scale(facts: Facts, tensor: str) -> tuple[str, float]:
    """Strips multiplications by scalars and casts; returns what is left and the factor."""
    factor = 1.0
    while node := facts.graph.producer.get(tensor):
        if node.kind == "Cast":
            tensor = node.inputs[0]
            continue
        if node.kind not in ("Mul", "Div"):
            break
        for number, other in (node.inputs, node.inputs[::-1]):
            scalar = facts.scalar(number)
            if scalar is not None and (node.kind == "Mul" or number == node.inputs[1]):
                factor = factor * scalar if node.kind == "Mul" else factor / scalar
                tensor = other
                break
        else:
            break
    return tensor, factor


def _cached(facts: Facts, tensor: str, side: str, pasts: dict[str, int]) -> tuple[int, str, str, float]:
    """Goes back to `Concat(past, fresh)`; returns layer, fresh, concatenation, and the factor on the way."""
    graph, factor = facts.graph, 1.0
    while (node := graph.producer.get(tensor)) and node.kind != "Concat":
        if node.kind in _LAYOUT:
            tensor = node.inputs[0]
            continue
        tensor, step = _peel_scale(facts, tensor)
        factor *= step
        if graph.producer.get(tensor) is node:
            break
    if node is None or node.kind != "Concat" or len(node.inputs) != 2 or node.attrs["axis"] not in (-2, 2):
        raise _Mismatch(f"its {side}s are not a concatenation of past and fresh {side}s")
    past, fresh = node.inputs
    while graph.op(past) == "Cast":  # some graphs leave float16 behind at the first attention; their cache does not
        past = graph.producer[past].inputs[0]
    if past not in pasts:
        raise _Mismatch(f"its {side}s are not concatenated to a past input but to {past}")
    return pasts[past], fresh, tensor, factor


def _hides(facts: Facts, tensor: str, factor: float) -> bool:
    value = facts.scalar(tensor)
    return value is not None and bool(forbids(np.array(value), factor))


def _match(facts: Facts, softmax: Node, interface: Interface) -> Match:
    graph = facts.graph
    if softmax.attrs.get("axis", -1) not in (-1, 3):
        raise _Mismatch(f"it normalises axis {softmax.attrs['axis']}, not the keys")
    (tensor, sinks), factor, softcap, masks, mask_factor = sinks_before(facts, softmax), 1.0, 0.0, [], 1.0
    while (node := graph.producer.get(tensor)) and node.kind != "MatMul":
        peeled, step = _peel_scale(facts, tensor)
        if peeled != tensor:
            tensor, factor = peeled, factor * step
        elif node.kind == "Add" and not softcap and facts.is_data(node.inputs[0]) != facts.is_data(node.inputs[1]):
            scores_first = facts.is_data(node.inputs[0])
            tensor, mask = node.inputs if scores_first else node.inputs[::-1]
            masks.append(mask)
            mask_factor = min(mask_factor, factor)
        elif (
            node.kind == "Where"
            and not softcap
            and not facts.is_data(node.inputs[0])
            and _hides(facts, node.inputs[2], factor)
        ):
            tensor, mask = node.inputs[1], node.inputs[0]
            masks.append(mask)
        elif node.kind == "Tanh" and not softcap:
            tensor, softcap, factor = node.inputs[0], factor, 1.0
        else:
            raise _Mismatch(f"its scores come from {node.label}")
    if node is None:
        raise _Mismatch("its scores do not come from a product of queries and keys")
    mix = _values_product(facts, softmax, bool(sinks))
    q, q_scale = _peel_scale(facts, node.inputs[0])
    layers = interface.layers
    layer, k, present_k, k_scale = _cached(facts, node.inputs[1], "key", {c.past_key: i for i, c in enumerate(layers)})
    v_layer, v, present_v, v_scale = _cached(
        facts, mix.inputs[1], "value", {c.past_value: i for i, c in enumerate(layers)}
    )
    if layer != v_layer:
        raise _Mismatch(f"it takes keys of layer {layer} and values of layer {v_layer}")
    if (graph.outputs[layers[layer].present_key], graph.outputs[layers[layer].present_value]) != (present_k, present_v):
        raise _Mismatch("its concatenated keys and values are not the layer's present outputs")
    if v_scale != 1:
        raise _Mismatch("its values are scaled")
    heads = _query_heads(facts, layers[layer], node.inputs[0])
    _verify_operand(facts, node.inputs[1], layers[layer].past_key, heads, k_scale, transposed=True)
    _verify_operand(facts, mix.inputs[1], layers[layer].past_value, heads, 1.0, transposed=False)
    scale = factor * q_scale * k_scale * (softcap or 1.0)
    if not (0 < scale < math.inf and 0 <= softcap < math.inf):
        raise _Mismatch(f"its scale is {scale:g} and its softcap {softcap:g}")
    if sinks and math.prod(graph.constants.get(sinks, graph.weights.get(sinks)).shape) != heads:
        raise _Mismatch(f"its sinks {sinks} are not one for each of {heads} query heads")
    y = mix.outputs[0]
    return Match(
        softmax, layer, heads, q, k, v, present_k, present_v, y, scale, softcap, tuple(masks), sinks, mask_factor
    )


def _query_heads(facts: Facts, cache: LayerCache, queries: str) -> int:
    shape = (facts.shapes(queries) or [()])[0]
    setting = facts.observed[0].setting
    fits = len(shape) == 4 and (shape[0], shape[2], shape[3]) == (setting.batch, setting.seq, cache.head_dim)
    if not fits or shape[1] % cache.kv_heads:
        raise _Mismatch(f"its queries have the shape {list(shape)} with {cache.kv_heads} KV heads")
    return shape[1]


def _verify_operand(facts: Facts, tensor: str, past_name: str, heads: int, factor: float, transposed: bool) -> None:
    """Checks by value that the product reads cached head `h // group` for query head h, whole and in order."""
    seen = facts.observed[0]
    entry = facts.graph.inputs[past_name]
    past = feed(past_name, entry.dtype, entry.shape, seen.setting).astype(np.float32) * factor
    found = seen.values[tensor].astype(np.float32)
    if found.ndim == 4 and transposed:
        found = found.swapaxes(2, 3)
    expected = np.repeat(past, heads // past.shape[1], axis=1)
    if found.shape != (*expected.shape[:2], seen.setting.total, expected.shape[3]):
        raise _Mismatch(f"its keys or values have the shape {list(found.shape)}")
    tolerance = 2e-3 * abs(factor)
    if not np.allclose(found[:, :, : seen.setting.past], expected, rtol=2e-3, atol=tolerance):
        raise _Mismatch("its KV heads are not repeated over consecutive query heads")


def attempts(facts: Facts, interface: Interface) -> tuple[dict[int, Match], list[str]]:
    """Layer → its attention, and for every Softmax that belongs to none that is understood what stopped it."""
    matches: dict[int, Match] = {}
    failures = []
    for node in facts.graph.nodes:
        if node.kind != "Softmax" or not facts.is_data(node.outputs[0]):
            continue
        try:
            match = _match(facts, node, interface)
        except _Mismatch as reason:
            failures.append(f"{node.label}: {reason}")
            continue
        if match.layer in matches:
            failures.append(f"{node.label}: layer {match.layer} has another attention already")
        matches[match.layer] = match
    return matches, failures


def find(facts: Facts, interface: Interface) -> list[Match]:
    """The attention of every layer, in layer order.

    Raises FrontendError if there is none, if a Softmax does not belong to one that is fully understood, or if a layer
    has none or two.
    """
    matches, failures = attempts(facts, interface)
    if not matches and not failures:
        raise FrontendError("No attention found.", expected="a Softmax per layer", found="no Softmax in the graph")
    if failures:
        raise FrontendError("Attention that is not understood.", found="; ".join(failures))
    if missing := sorted(set(range(len(interface.layers))) - set(matches)):
        raise FrontendError(
            "No attention found for some layers.", where=f"layers {missing}", hint="Cross attention is not supported."
        )
    return [matches[layer] for layer in sorted(matches)]
