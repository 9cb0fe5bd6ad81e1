"""com.microsoft::GroupQueryAttention, what onnxruntime's model builder writes, taken apart.

Source: onnxruntime, docs/ContribOperators.md. Norms and rotation of queries and keys, the cache and the causal mask are
inside the operation; the number of cached tokens enters as an operand, which is claimed to be the usual one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tqc.frontend.claims import Claim
from tqc.frontend.graph import Node

from .caches import pin_head_dim
from .context import Expansion
from .decompose import append, attend, causal_mask, join_heads, split_heads
from .rotary_embedding import rotate

_OPERANDS = (
    "query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids "
    "attention_bias head_sink k_scale v_scale q_norm_weight k_norm_weight query_seqlens"
).split()
_EPSILON = 1e-6


@dataclass(frozen=True)
class _Heads:
    query: int
    kv: int
    dim: int


def group_query_attention(expansion: Expansion, node: Node) -> None:
    """Refuses quantized caches, right-padded chunks, attention that is not causal, and the output of scores."""
    given = {name: "" for name in _OPERANDS} | dict(zip(_OPERANDS, node.inputs, strict=False))
    _refuse_options(expansion, node, given)
    heads = _heads(expansion, node, given)
    _fix_cache(expansion, given, heads)
    expansion.claim(given["seqlens_k"], Claim.LAST)
    expansion.claim(given["total_sequence_length"], Claim.TOTAL)
    if given["position_ids"]:
        expansion.claim(given["position_ids"], Claim.POSITIONS)

    q, k, v = _projections(expansion, given, heads)
    q = _turned(expansion, node, given, _normed(expansion, node, given, q, "q"), heads.dim)
    k = _turned(expansion, node, given, _normed(expansion, node, given, k, "k"), heads.dim)
    keys = append(expansion, given["past_key"], k, node.outputs[1])
    values = append(expansion, given["past_value"], v, node.outputs[2])
    masks = [causal_mask(expansion, given["past_key"], max(node.attrs.get("local_window_size", -1), 0))]
    if given["attention_bias"]:
        masks.append(given["attention_bias"])
    y = attend(
        expansion,
        q,
        keys,
        values,
        heads=heads.query,
        kv_heads=heads.kv,
        dim=heads.dim,
        scale=node.attrs.get("scale", 0.0) or heads.dim**-0.5,
        softcap=node.attrs.get("softcap", 0.0),
        masks=masks,
        sinks=_sinks(expansion, node, given, heads.query),
    )
    join_heads(expansion, y, heads.query, heads.dim, node.outputs[0])


def _refuse_options(expansion: Expansion, node: Node, given: dict[str, str]) -> None:
    attrs, window = node.attrs, node.attrs.get("local_window_size", -1)
    scores = node.outputs[3:] and node.outputs[3]
    outputs = [*node.outputs, "", ""]
    reasons = {
        "A quantized cache is not supported: tqc compresses the cache itself.": given["k_scale"]
        or given["v_scale"]
        or attrs.get("k_quant_type", "NONE") != "NONE"
        or attrs.get("v_quant_type", "NONE") != "NONE",
        "Right-padded chunks of queries are not supported.": given["query_seqlens"],
        "Attention that is not causal is not supported.": attrs.get("causal", 1) != 1,
        "The output of attention scores is not supported.": attrs.get("qk_output", 0) or scores,
        "Attention without cached keys and values is not supported.": not (
            given["past_key"] and given["past_value"] and outputs[1] and outputs[2]
        ),
        "Keys and values must both be packed with the queries, or neither.": bool(given["key"]) != bool(given["value"]),
        "Norms of queries and keys must both be given, or neither.": bool(given["q_norm_weight"])
        != bool(given["k_norm_weight"]),
        "A window without a token.": window == 0 or window < -1,
        "A windowed cache without a window.": attrs.get("sliding_window_cache", 0) and window < 1,
        "Rotation without tables of cosines and sines.": attrs.get("do_rotary", 0)
        and not (given["cos_cache"] and given["sin_cache"]),
        "The number of cached tokens is not given.": not (given["seqlens_k"] and given["total_sequence_length"]),
    }
    for reason, applies in reasons.items():
        if applies:
            expansion.refuse(reason)


def _heads(expansion: Expansion, node: Node, given: dict[str, str]) -> _Heads:
    query, kv = int(node.attrs["num_heads"]), int(node.attrs["kv_num_heads"])
    parts = query if given["key"] else query + 2 * kv
    width, cache = expansion.width(given["query"]), expansion.graph.inputs.get(given["past_key"])
    if width is None and cache and isinstance(cache.shape[-1], int):
        width = parts * cache.shape[-1]
    if width is None or width % parts or query % kv:
        expansion.refuse(
            "The size of the heads is not known.",
            expected=f"a width of the queries that is a multiple of {parts}, and whole groups of query heads",
            found=f"width {width}, {query} query heads, {kv} KV heads",
        )
    return _Heads(query, kv, width // parts)


def _fix_cache(expansion: Expansion, given: dict[str, str], heads: _Heads) -> None:
    """Writes the size of heads into the shapes of the cache inputs, where builders leave a name."""
    for side in ("past_key", "past_value"):
        entry = expansion.graph.inputs.get(given[side])
        if entry is None or len(entry.shape) != 4:
            expansion.refuse("The cached keys and values must be inputs of the graph, of rank 4.", found=given[side])
        _, kv, _, dim = entry.shape
        if any(isinstance(found, int) and found != ours for found, ours in ((kv, heads.kv), (dim, heads.dim))):
            expansion.refuse(
                "A cache input has another shape than its attention.",
                expected=f"[batch, {heads.kv}, past, {heads.dim}]",
                found=f"{given[side]} {list(entry.shape)}",
            )
        pin_head_dim(expansion, given[side], heads.dim)


def _projections(expansion: Expansion, given: dict[str, str], heads: _Heads) -> list[str]:
    """Queries, keys and values as [B, heads, S, D]."""
    counts = (heads.query, heads.kv, heads.kv)
    if given["key"]:
        flat = [given[name] for name in ("query", "key", "value")]
    else:
        ends = [int(end) * heads.dim for end in np.cumsum((0, *counts))]
        bounds = [[expansion.ints(n) for n in (*pair, -1)] for pair in pairwise(ends)]
        flat = [expansion.add("Slice", [given["query"], *bound]) for bound in bounds]
    return [split_heads(expansion, x, count, heads.dim) for x, count in zip(flat, counts, strict=True)]


def _normed(expansion: Expansion, node: Node, given: dict[str, str], x: str, side: str) -> str:
    weight = given[f"{side}_norm_weight"]
    if not weight:
        return x
    epsilon = node.attrs.get(f"{side}_norm_epsilon", node.attrs.get("qk_norm_epsilon", _EPSILON))
    return expansion.add("RMSNorm", [x, weight], attrs={"epsilon": float(epsilon)}, domain="tqc")


def _turned(expansion: Expansion, node: Node, given: dict[str, str], x: str, dim: int) -> str:
    if not node.attrs.get("do_rotary", 0):
        return x
    interleaved = bool(node.attrs.get("rotary_interleaved", 0))
    return rotate(expansion, x, given["cos_cache"], given["sin_cache"], dim, interleaved)


def _sinks(expansion: Expansion, node: Node, given: dict[str, str], heads: int) -> str:
    """Logits [heads] beside the scores, '' without: given, or 0 for the "smooth" softmax."""
    if given["head_sink"]:
        return given["head_sink"]
    return expansion.constant(np.zeros(heads, np.float32)) if node.attrs.get("smooth_softmax", -1) == 1 else ""


EXPANDERS = {"com.microsoft::GroupQueryAttention": group_query_attention}
