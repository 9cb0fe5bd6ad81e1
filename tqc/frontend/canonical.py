"""Rewrites a decoder graph to its canonical form: one `tqc::Attention` a layer, no masks, no size arithmetic."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from tqc.errors import FrontendError

from .attention import Match, find, products
from .dependence import Source, dependences
from .every_row import compute_every_row
from .expand import expand
from .facts import Facts, observe
from .folding import fold
from .graph import Graph, Node
from .interface import Interface, bind
from .masks import UnknownMask, classify, settings
from .norms import fuse_norms
from .probe import Probe
from .reasons import reasons
from .residual import residual_of
from .rope_form import RopeForm, rope_form
from .rotary import angle_tensors, fuse_rotary

DOMAIN = "tqc"


@dataclass(frozen=True)
class LayerInfo:
    """What was recognised of one layer; `node` is the ONNX Softmax it was found at.

    `past` and `present` name the graph's inputs and outputs for its keys and values, `query` the tensor [B, H, S, D]
    that meets the keys and `residual` the sum of the residual stream and the attention's product (tensors of the
    expanded graph, which the file may lack; '' if there is no such sum); `rope` is how queries are rotated, None where
    positions are no rotation that was recognised.
    """

    layer: int
    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float
    window: int
    node: str
    sinks: bool = False
    past: tuple[str, str] = ("", "")
    present: tuple[str, str] = ("", "")
    rope: RopeForm | None = None
    query: str = ""
    residual: str = ""

    @property
    def mask(self) -> str:
        """What the mask was recognised as."""
        return f"causal, window {self.window}" if self.window else "causal"


@dataclass(frozen=True, eq=False)
class Canonical:
    """`graph` holds only live nodes; its attention, RMSNorm and Rope nodes are in the domain `tqc`."""

    graph: Graph
    interface: Interface
    layers: tuple[LayerInfo, ...]


_CONSUMED = frozenset({"Softmax", "IsNaN", "Where", "ReduceMax"})
"""Kinds that attention consists of besides those that can stay."""


def _refuse(nodes: list[Node]) -> None:
    if nodes:
        raise FrontendError(
            f"Unsupported operations: {len(nodes)}.",
            found="; ".join(node.label for node in nodes),
            hint=reasons(nodes) or "Export the model in float32 or float16, without fusions for one runtime.",
        )


def refuse_unsupported(graph: Graph, sources: dict[str, Source], supported: Collection[str]) -> None:
    """Raises FrontendError listing every node that computes on data and is of no supported kind."""
    known = set(supported) | _CONSUMED
    _refuse([n for n in graph.nodes if n.kind not in known and (n.domain or Source.DATA in sources[n.outputs[0]])])


def windows_of(facts: Facts, matches: list[Match]) -> list[int]:
    """The window of each layer's mask."""
    graph = facts.graph
    names = {mask for match in matches for mask in match.masks}
    where = ""
    try:
        sizes = settings(graph, names)
        observed = tuple(Probe(graph, names).run(setting) for setting in sizes)
        found = []
        for match in matches:
            where = f"layer {match.layer}, {match.softmax.label}"
            found.append(classify(match.masks, observed, match.mask_factor))
        return found
    except UnknownMask as reason:
        raise FrontendError(
            "Unknown mask.",
            where=where or f"layer {matches[0].layer}, {matches[0].softmax.label}",
            expected="causal, or causal within a sliding window, with attention_mask as padding of keys",
            found=str(reason),
        ) from None


def layer_info(interface: Interface, match: Match, window: int) -> LayerInfo:
    """What a match says of its layer, but for the rotation of its queries."""
    cache = interface.layers[match.layer]
    return LayerInfo(
        match.layer,
        match.query_heads,
        cache.kv_heads,
        cache.head_dim,
        match.scale,
        match.softcap,
        window,
        match.softmax.name,
        bool(match.sinks),
        (cache.past_key, cache.past_value),
        (cache.present_key, cache.present_value),
        query=match.q,
    )


def _attend(graph: Graph, interface: Interface, match: Match, window: int) -> None:
    cache = interface.layers[match.layer]

    def cast(tensor: str, dtype: str, result: str) -> str:
        if graph.types.get(tensor) == dtype:
            return tensor
        graph.types[result] = dtype
        graph.define(Node("Cast", [tensor], [result], name=f"{match.softmax.name}/cast"))
        return result

    operands = [
        cast(t, cache.dtype, f"{match.y}/{side}") for t, side in ((match.q, "q"), (match.k, "k"), (match.v, "v"))
    ]
    y, wanted = f"{match.y}/attention", graph.types.get(match.y, cache.dtype)
    attrs = {"scale": match.scale, "softcap": match.softcap, "window": window, "layer": match.layer}
    attention = Node(
        "Attention",
        [*operands, cache.past_key, cache.past_value, *_sinks(graph, match)],
        [y if wanted != cache.dtype else match.y, match.present_k, match.present_v],
        attrs,
        match.softmax.name,
        DOMAIN,
    )
    graph.define(attention)
    if wanted != cache.dtype:
        graph.types[y] = cache.dtype
        cast(y, wanted, match.y)


def _sinks(graph: Graph, match: Match) -> list[str]:
    """The sink logits as a constant [H] in float32, nothing if there are none."""
    if not match.sinks:
        return []
    array = graph.constants[match.sinks] if match.sinks in graph.constants else graph.weights[match.sinks].numpy()
    name = f"{match.sinks}/sinks"
    graph.constants[name], graph.types[name] = array.reshape(-1).astype(np.float32), "float32"
    return [name]


def canonicalise(graph: Graph, supported: Collection[str]) -> Canonical:
    """Rewrites `graph` in place.

    `supported` are the kinds of nodes that can stay. Raises FrontendError for unsupported operations (all of them at
    once), attention that is not found or not understood, and masks other than causal and causal sliding window.
    """
    expand(graph)
    try:
        interface = bind(graph)
    except FrontendError:  # an attention that is not understood may be what leaves the cache unknown
        _refuse([node for node in graph.nodes if node.domain and node.kind not in supported])
        raise
    compute_every_row(graph, interface.logits)
    sources = dependences(graph, interface)
    refuse_unsupported(graph, sources, supported)
    facts = observe(graph, sources, products(graph) | angle_tensors(graph, sources))
    matches = find(facts, interface)
    windows = windows_of(facts, matches)
    residuals = [residual_of(graph, match) for match in matches]
    for match, window in zip(matches, windows, strict=True):
        _attend(graph, interface, match, window)
    fuse_norms(facts)
    fuse_rotary(facts)
    graph.prune()
    fold(graph, facts)
    if readers := graph.users[interface.mask]:
        raise FrontendError(
            "attention_mask is used outside the attention masks.",
            where="; ".join(node.label for node in readers),
            hint="Export with a position_ids input.",
        )
    _refuse([node for node in graph.nodes if node.kind not in supported])
    layers = [
        replace(layer_info(interface, match, window), residual=residual)
        for match, window, residual in zip(matches, windows, residuals, strict=True)
    ]
    attentions = {node.attrs["layer"]: node for node in graph.nodes if node.kind == f"{DOMAIN}::Attention"}
    ropes = [rope_form(graph, attentions[layer.layer].inputs[0]) for layer in layers]
    return Canonical(graph, interface, tuple(replace(a, rope=b) for a, b in zip(layers, ropes, strict=True)))
