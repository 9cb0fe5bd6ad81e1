"""The form of attention that `find` recognises, written from an operation's operands.

Nodes here look at sizes through the graph's inputs alone, so that a probe of a mask runs no layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tqc.frontend.interface import TOKENS

from .context import Expansion


def split_heads(expansion: Expansion, x: str, heads: int, dim: int) -> str:
    """[B, S, heads·dim] → [B, heads, S, dim]; what was joined just before is taken as it was."""
    if joined := expansion.shared.get((join_heads, x, heads, dim)):
        return joined
    split = expansion.add("Reshape", [x, expansion.ints(0, 0, heads, dim)])
    return expansion.add("Transpose", [split], attrs={"perm": [0, 2, 1, 3]})


def join_heads(expansion: Expansion, x: str, heads: int, dim: int, output: str | None = None) -> str:
    """[B, heads, S, dim] → [B, S, heads·dim]."""
    turned = expansion.add("Transpose", [x], attrs={"perm": [0, 2, 1, 3]})
    joined = expansion.add("Reshape", [turned, expansion.ints(0, 0, heads * dim)], output=output)
    expansion.shared[join_heads, joined, heads, dim] = x
    return joined


def append(expansion: Expansion, past: str, fresh: str, present: str | None = None) -> str:
    """Cached and new keys or values, [B, kv_heads, P, D] and [B, kv_heads, S, D] → [B, kv_heads, P+S, D]."""
    return expansion.add("Concat", [past, fresh], attrs={"axis": 2}, output=present or None)


def _size(expansion: Expansion, tensor: str, axis: int) -> str:
    """The length of one axis of a graph input, [1]."""
    shape = expansion.add("Shape", [tensor], dtype="int64")
    return expansion.add("Gather", [shape, expansion.ints(axis)])


def causal_mask(expansion: Expansion, past: str, window: int = 0) -> str:
    """Which keys a query sees, boolean [S, P+S]: key j if j ≤ i and, with a window, j > i - window.

    `past` is a cache input, [B, kv_heads, P, D]. Layers with the same window share the mask.
    """
    name = f"tqc/causal_mask_{window}"
    if name in expansion.graph.producer:
        return name
    zero, one = (expansion.constant(np.array(n, np.int64)) for n in (0, 1))
    start = expansion.add("Squeeze", [_size(expansion, past, 2)])
    total = expansion.add("Add", [start, expansion.add("Squeeze", [_size(expansion, TOKENS, 1)])])
    queries = expansion.add("Range", [start, total, one])
    i = expansion.add("Unsqueeze", [queries, expansion.ints(1)])
    j = expansion.add("Range", [zero, total, one])
    if not window:
        return expansion.add("LessOrEqual", [j, i], dtype="bool", output=name)
    causal = expansion.add("LessOrEqual", [j, i], dtype="bool")
    width = expansion.constant(np.array(window, np.int64))
    recent = expansion.add("Greater", [j, expansion.add("Sub", [i, width])], dtype="bool")
    return expansion.add("And", [causal, recent], output=name)


def _repeat(expansion: Expansion, x: str, heads: int, kv_heads: int, dim: int) -> str:
    """[B, kv_heads, T, D] → [B, heads, T, D], each head repeated over the query heads of its group."""
    if heads == kv_heads:
        return x
    spread = expansion.add("Unsqueeze", [x, expansion.ints(2)])
    wide = expansion.add("Expand", [spread, expansion.ints(1, 1, heads // kv_heads, 1, 1)])
    return expansion.add("Reshape", [wide, expansion.ints(0, heads, -1, dim)])


def _softmax(expansion: Expansion, scores: str, sinks: str, heads: int) -> str:
    """Over the keys, and over one more logit per head that takes part in the sum alone ("attention sink")."""
    if not sinks:
        return expansion.add("Softmax", [scores], attrs={"axis": -1})
    batch, seq = (_size(expansion, TOKENS, axis) for axis in (0, 1))
    one = expansion.ints(1)
    target = expansion.add("Concat", [batch, one, seq, one], attrs={"axis": 0})
    wide = expansion.add("Cast", [sinks], attrs={"to": 1}, dtype="float32")
    column = expansion.add("Expand", [expansion.add("Reshape", [wide, expansion.ints(1, heads, 1, 1)]), target])
    joined = expansion.add("Concat", [scores, column], attrs={"axis": -1})
    weights = expansion.add("Softmax", [joined], attrs={"axis": -1})
    return expansion.add("Slice", [weights, expansion.ints(0), expansion.ints(-1), expansion.ints(-1)])


def attend(
    expansion: Expansion,
    q: str,
    k: str,
    v: str,
    *,
    heads: int,
    kv_heads: int,
    dim: int,
    scale: float,
    softcap: float = 0.0,
    masks: Sequence[str] = (),
    sinks: str = "",
    output: str | None = None,
) -> str:
    """softmax(softcap·tanh(q·kᵀ·scale/softcap) + masks)·v, [B, heads, S, dim] in the type of q.

    q is [B, heads, S, dim]; k and v [B, kv_heads, T, dim], cached and new tokens (see `append`). A boolean mask selects
    scores, any other is added; both broadcast to [B, heads, S, T]. `sinks` [heads] are logits that only join the
    softmax's sum. Scores are float32: scale and softcap must not be rounded to float16.
    """
    dtype = expansion.graph.types.get(q, "float32")
    keys = expansion.add("Transpose", [_repeat(expansion, k, heads, kv_heads, dim)], attrs={"perm": [0, 1, 3, 2]})
    scores = expansion.add("MatMul", [q, keys])
    if dtype != "float32":
        scores = expansion.add("Cast", [scores], attrs={"to": 1}, dtype="float32")

    def number(value: float) -> str:
        return expansion.constant(np.array(value, np.float32))

    if scale != 1:
        scores = expansion.add("Mul", [scores, number(scale)])
    if softcap:
        bounded = expansion.add("Tanh", [expansion.add("Div", [scores, number(softcap)])])
        scores = expansion.add("Mul", [bounded, number(softcap)])
    for mask in masks:
        if expansion.graph.types.get(mask) == "bool":
            scores = expansion.add("Where", [mask, scores, number(-np.inf)], dtype="float32")
        else:
            if expansion.graph.types.get(mask) != "float32":
                mask = expansion.add("Cast", [mask], attrs={"to": 1}, dtype="float32")
            scores = expansion.add("Add", [scores, mask])
    weights = _softmax(expansion, scores, sinks, heads)
    if dtype != "float32":
        to = {"float16": 10, "float64": 11}[dtype]
        weights = expansion.add("Cast", [weights], attrs={"to": to}, dtype=dtype)
    return expansion.add("MatMul", [weights, _repeat(expansion, v, heads, kv_heads, dim)], output=output)
