"""onnxruntime's MultiHeadAttention in its decomposed form (ContribOperators.md; checked against its CPU kernel).

The cache may be inside (past_key, past_value) or concatenated before.
"""

from __future__ import annotations

import numpy as np

from tqc.frontend.claims import Claim
from tqc.frontend.graph import Node
from tqc.frontend.masks import FORBIDDEN

from .caches import cache_of, pin_head_dim
from .context import Expansion
from .decompose import append, attend, causal_mask

_OPERANDS = ("query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value")


def multi_head_attention(e: Expansion, node: Node) -> None:
    """MultiHeadAttention(query[, key, value, bias, key_padding_mask, attention_bias, past_key, past_value]).

    Raises FrontendError for buffers shared between steps, beams, the fourth output, half a cache, packed operands with
    a bias, and padding that is not given as a mask or as the number of all tokens.
    """
    given = dict.fromkeys(_OPERANDS, "") | dict(zip(_OPERANDS, node.inputs, strict=False))
    y, present_k, present_v, scores = (node.outputs + [""] * 4)[:4]
    if surplus := [t for t in node.inputs[len(_OPERANDS) :] if t]:
        e.refuse("Caches shared between steps or beams are not supported.", found=", ".join(surplus))
    if scores:
        e.refuse("The fourth output of MultiHeadAttention is not supported.", found=f"output {scores}")
    past_k, past_v = given["past_key"], given["past_value"]
    if bool(past_k) != bool(past_v):
        e.refuse("MultiHeadAttention has past keys or past values alone.")
    if not past_k and (present_k or present_v):
        e.refuse("MultiHeadAttention returns present keys or values without a past.")
    heads = node.attrs.get("num_heads", 0)
    if heads <= 0:
        e.refuse("MultiHeadAttention lacks its number of heads.")
    if (width := e.width(given["query"])) and given["key"]:
        for operand, past in (("key", past_k), ("value", past_v)):
            pin_head_dim(e, past or cache_of(e, given[operand]), width // heads)
    q, k, v = _fresh(e, given, heads)
    if past_k:
        k, v = append(e, past_k, k, present_k), append(e, past_v, v, present_v)
    masks = _masks(e, node, given)
    scale = node.attrs.get("scale", 0.0) or _head_dim(e, given, heads) ** -0.5
    dims = {"heads": heads, "kv_heads": heads, "dim": 1}  # nothing is repeated inside, so that dim plays no part
    out = attend(e, q, k, v, **dims, scale=scale, masks=masks)
    turned = e.add("Transpose", [out], attrs={"perm": [0, 2, 1, 3]})
    e.add("Reshape", [turned, e.ints(0, 0, -1)], output=y)


def _fresh(e: Expansion, given: dict[str, str], heads: int) -> tuple[str, str, str]:
    """Queries, keys and values, [B, heads, S, D] each."""
    query, key, value, bias = (given[name] for name in ("query", "key", "value", "bias"))
    if value and not key:
        e.refuse("MultiHeadAttention has values without keys.")
    if bias and not value:
        e.refuse("MultiHeadAttention has packed operands and a bias.", found=f"bias {bias}")
    if not key:
        return tuple(_unpacked(e, query, part) for part in range(3))
    if value and e.rank(key) == 4:
        if bias or given["past_key"]:
            e.refuse("MultiHeadAttention has keys of four axes with a bias or a past.")
        return _split(e, query, heads), key, value
    flat = [query, key, value]
    if bias:
        parts = np.split(_bias(e, bias), 3)
        flat = [e.add("Add", [x, e.constant(part, "bias")]) for x, part in zip(flat, parts, strict=True)]
    q = _split(e, flat[0], heads)
    if not value:
        return q, _unpacked(e, key, 0), _unpacked(e, key, 1)
    return q, _split(e, flat[1], heads), _split(e, flat[2], heads)


def _bias(e: Expansion, bias: str) -> np.ndarray:
    array = e.array(bias)
    if array.ndim != 1 or array.size % 3:
        e.refuse("The bias is not one for queries, keys and values of the same width.", found=str(list(array.shape)))
    return array


def _split(e: Expansion, x: str, heads: int) -> str:
    """[B, S, heads·dim] → [B, heads, S, dim]."""
    split = e.add("Reshape", [x, e.ints(0, 0, heads, -1)])
    return e.add("Transpose", [split], attrs={"perm": [0, 2, 1, 3]})


def _unpacked(e: Expansion, x: str, part: int) -> str:
    """[B, S, heads, parts, dim] → [B, heads, S, dim]."""
    cut = e.add("Slice", [x, e.ints(part), e.ints(part + 1), e.ints(3)])
    return e.add("Transpose", [e.add("Squeeze", [cut, e.ints(3)])], attrs={"perm": [0, 2, 1, 3]})


def _masks(e: Expansion, node: Node, given: dict[str, str]) -> list[str]:
    masks, past = [], given["past_key"]
    if node.attrs.get("unidirectional", 0):
        if not past:
            e.refuse("MultiHeadAttention is unidirectional over a cache that it does not have.")
        masks.append(causal_mask(e, past))
    if mask := given["key_padding_mask"]:
        hidden = node.attrs.get("mask_filter_value", FORBIDDEN)
        if hidden > FORBIDDEN:
            e.refuse("Padding is not hidden but weakened.", found=f"mask_filter_value {hidden:g}")
        rank = e.rank(mask)
        if rank == 1:  # the lengths of the sequences, or those with two more rows of bookkeeping, which are refused
            one = e.constant(np.array(1, e.graph.types.get(mask, "int32")))
            e.claim(e.add("Sub", [mask, one]), Claim.LAST)
        elif rank == 2:
            zero = e.constant(np.array(0, e.graph.types.get(mask, "int32")))
            real = e.add("Greater", [mask, zero], dtype="bool")
            masks.append(e.add("Unsqueeze", [real, e.ints(1, 2)]))
        else:
            e.refuse("The form of key_padding_mask is not known.", expected="[batch] or [batch, total]", found=mask)
    if bias := given["attention_bias"]:
        masks.append(bias)
    return masks


def _head_dim(e: Expansion, given: dict[str, str], heads: int) -> int:
    for name in ("past_key", "key"):
        entry = e.graph.inputs.get(given[name])
        if entry and len(entry.shape) == 4 and isinstance(entry.shape[3], int):
            return entry.shape[3]
    if given["key"] and (width := e.width(given["query"])):
        return width // heads
    e.refuse("The head_dim that scales MultiHeadAttention is not known.", hint="Export with the attribute scale.")


EXPANDERS = {"com.microsoft::MultiHeadAttention": multi_head_attention}
