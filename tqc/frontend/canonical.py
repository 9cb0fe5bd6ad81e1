"""Rewrites a decoder graph to its canonical form: one `tqc::Attention` a layer, no masks, no size arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tqc.errors import FrontendError

from .attention import Match, find, products
from .dependence import Source, dependences
from .facts import Facts, observe
from .folding import fold
from .graph import Graph, Node
from .interface import Interface, bind
from .masks import UnknownMask, classify, settings
from .probe import Probe

DOMAIN = "tqc"


@dataclass(frozen=True)
class LayerInfo:
    """What was recognised of one layer; `node` is the ONNX Softmax it was found at."""

    layer: int
    query_heads: int
    kv_heads: int
    head_dim: int
    scale: float
    softcap: float
    window: int
    node: str


@dataclass(frozen=True, eq=False)
class Canonical:
    """`graph` holds only live nodes; its attention, RMSNorm and Rope nodes are in the domain `tqc`."""

    graph: Graph
    interface: Interface
    layers: tuple[LayerInfo, ...]


def refuse_unsupported(graph: Graph, interface: Interface, supported: Iterable[str]) -> None:
    """Raises FrontendError listing every node that computes on data and is of no supported kind."""
    known = set(supported) | {"Softmax", "IsNaN", "Where"}
    sources = dependences(graph, interface)
    unknown = [
        node.label
        for node in graph.nodes
        if node.kind not in known and (node.domain or Source.DATA in sources[node.outputs[0]])
    ]
    if unknown:
        raise FrontendError(
            f"Unsupported operations: {len(unknown)}.",
            found="; ".join(unknown),
            hint="Export a float32 or float16 decoder with torch's TorchScript exporter or optimum, without fusions.",
        )


def _windows(facts: Facts, matches: list[Match]) -> list[int]:
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
            found.append(classify(match.masks, observed))
        return found
    except UnknownMask as reason:
        raise FrontendError(
            "Unknown mask.",
            where=where or f"layer {matches[0].layer}, {matches[0].softmax.label}",
            expected="causal, or causal within a sliding window, with attention_mask as padding of keys",
            found=str(reason),
        ) from None


def _attend(graph: Graph, interface: Interface, match: Match, window: int) -> LayerInfo:
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
        [*operands, cache.past_key, cache.past_value],
        [y if wanted != cache.dtype else match.y, match.present_k, match.present_v],
        attrs,
        match.softmax.name,
        DOMAIN,
    )
    graph.define(attention)
    if wanted != cache.dtype:
        graph.types[y] = cache.dtype
        cast(y, wanted, match.y)
    return LayerInfo(
        match.layer,
        match.query_heads,
        cache.kv_heads,
        cache.head_dim,
        match.scale,
        match.softcap,
        window,
        match.softmax.name,
    )


def canonicalise(graph: Graph, supported: Iterable[str], fusions: Iterable[Callable[[Facts], None]] = ()) -> Canonical:
    """Rewrites `graph` in place.

    `supported` are the kinds of nodes that can stay. Raises FrontendError for unsupported operations (all of them at
    once), attention that is not found or not understood, and masks other than causal and causal sliding window.
    """
    interface = bind(graph)
    refuse_unsupported(graph, interface, supported)
    facts = observe(graph, interface, products(graph))
    matches = find(facts, interface)
    windows = _windows(facts, matches)
    layers = tuple(_attend(graph, interface, m, w) for m, w in zip(matches, windows, strict=True))
    for fuse in fusions:
        fuse(facts)
    graph.prune()
    fold(graph, facts)
    if readers := graph.users[interface.mask]:
        raise FrontendError(
            "attention_mask is used outside the attention masks.",
            where="; ".join(node.label for node in readers),
            hint="Export with a position_ids input.",
        )
    return Canonical(graph, interface, layers)
