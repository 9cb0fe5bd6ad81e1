"""ONNX's own Attention (opset 23 to 25) in its decomposed form; what it means is ONNX's reference implementation.

The cache may be inside (past_key, past_value) or, as torch exports it, concatenated before; heads may be repeated
inside or before. What is not known from the graph's structure is left to be read when the graph is probed.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from tqc.frontend.claims import Claim
from tqc.frontend.graph import Node
from tqc.frontend.interface import TOKENS

from .caches import cache_of
from .context import Expansion
from .decompose import append, attend


def attention(e: Expansion, node: Node) -> None:
    """Attention(Q, K, V[, attn_mask, past_key, past_value, nonpad_kv_seqlen]).

    Raises FrontendError for the fourth output, half a cache, a softmax of unusual precision, a mask of integers, and
    an nonpad_kv_seqlen that is not the number of all tokens.
    """
    q, k, v, mask, past_k, past_v, filled = (node.inputs + [""] * 7)[:7]
    y, present_k, present_v, scores = (node.outputs + [""] * 4)[:4]
    if scores:
        e.refuse("The fourth output of Attention is not supported.", found=f"output {scores}")
    if bool(past_k) != bool(past_v):
        e.refuse("Attention has past keys or past values alone.")
    if not past_k and (present_k or present_v):
        e.refuse("Attention returns present keys or values without a past.")
    if filled and past_k:
        e.refuse("Attention has both a past and nonpad_kv_seqlen.")
    dtype = e.graph.types.get(q, "float32")
    _check_precision(e, node, dtype)
    flat = _is_flat(e, node, q)
    if flat:
        heads, kv_heads = node.attrs.get("q_num_heads", 0), node.attrs.get("kv_num_heads", 0)
        if heads <= 0 or kv_heads <= 0:
            e.refuse("Attention over three axes lacks its numbers of heads.")
        q, k, v = _split(e, q, heads), _split(e, k, kv_heads), _split(e, v, kv_heads)
    if past_k:
        k, v = append(e, past_k, k, present_k), append(e, past_v, v, present_v)
    # Sizes are read off the cache's input where it can be found, so that a probe of the mask runs no layer.
    cache = past_k or cache_of(e, k)
    total = _add(e, _axis(e, cache, 2), _axis(e, TOKENS, 1)) if cache else _axis(e, k, 2)
    masks = []
    if mask:
        masks.append(_padded(e, node, mask, total, dtype))
    if filled:
        e.claim(e.add("Sub", [filled, e.constant(np.array(1, np.int64))]), Claim.LAST)
    start = _subtract(e, total, _axis(e, TOKENS, 1)) if past_k or filled else e.constant(np.array(0, np.int64))
    masks += _frontiers(e, node, start, total)
    scale = node.attrs.get("scale")
    if scale is None:
        dim = _head_dim(e, node, cache, flat)
        scale = dim**-0.5
    softcap = node.attrs.get("softcap", 0.0)
    if softcap < 0:
        e.refuse("Attention has a negative softcap.", found=f"{softcap:g}")
    k, v = _repeat(e, k, q), _repeat(e, v, q)
    # Repeated already: attend has nothing left to repeat.
    same = {"heads": 1, "kv_heads": 1, "dim": 1}
    out = attend(e, q, k, v, **same, scale=scale, softcap=softcap, masks=masks, output=None if flat else y)
    if flat:
        turned = e.add("Transpose", [out], attrs={"perm": [0, 2, 1, 3]})
        e.add("Reshape", [turned, e.ints(0, 0, -1)], output=y)


def _check_precision(e: Expansion, node: Node, dtype: str) -> None:
    wanted = node.attrs.get("softmax_precision", TensorProto.FLOAT)
    own = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}.get(dtype)
    if wanted not in (TensorProto.FLOAT, own):
        e.refuse("Softmax in an unusual precision.", expected="float32 or the operands' type", found=str(wanted))


def _is_flat(e: Expansion, node: Node, q: str) -> bool:
    """Whether the operands are [B, S, heads·dim]; the attributes say it where the graph does not."""
    rank = e.rank(q)
    if rank not in (None, 3, 4):
        e.refuse("Attention over an unexpected number of axes.", expected="3 or 4", found=str(rank))
    return rank == 3 if rank else "q_num_heads" in node.attrs


def _split(e: Expansion, x: str, heads: int) -> str:
    """[B, S, heads·dim] → [B, heads, S, dim]."""
    split = e.add("Reshape", [x, e.ints(0, 0, heads, -1)])
    return e.add("Transpose", [split], attrs={"perm": [0, 2, 1, 3]})


def _head_dim(e: Expansion, node: Node, cache: str, flat: bool) -> int:
    shape = e.graph.inputs[cache].shape if cache in e.graph.inputs else ()
    dim = shape[3] if len(shape) == 4 else None
    if flat and dim is None and (width := e.width(node.inputs[0])):
        dim = width // node.attrs["q_num_heads"]
    if not isinstance(dim, int) or dim <= 0:
        e.refuse("The head_dim that scales Attention is not known.", hint="Export with the attribute scale.")
    return dim


def _axis(e: Expansion, tensor: str, axis: int) -> str:
    """The length of an axis, a scalar."""
    shape = e.add("Shape", [tensor], dtype="int64")
    return e.add("Gather", [shape, e.constant(np.array(axis, np.int64))])


def _add(e: Expansion, a: str, b: str) -> str:
    return e.add("Add", [a, b])


def _subtract(e: Expansion, a: str, b: str) -> str:
    return e.add("Sub", [a, b])


def _padded(e: Expansion, node: Node, mask: str, total: str, dtype: str) -> str:
    """The mask over all keys: one that is shorter hides those behind its end."""
    found = e.graph.types.get(mask)
    if found not in ("bool", dtype):
        e.refuse("Attention has a mask of an unusual type.", expected=f"bool or {dtype}", found=str(found))
    zero = e.constant(np.array(0, np.int64))
    missing = e.add("Max", [_subtract(e, total, _axis(e, mask, -1)), zero])
    pads = e.add("Concat", [e.ints(0), e.add("Unsqueeze", [missing, e.ints(0)])], attrs={"axis": 0})
    hidden = e.constant(np.array(False) if found == "bool" else np.array(-np.inf, dtype))
    return e.add("Pad", [mask, pads, hidden, e.ints(-1)])


def _frontiers(e: Expansion, node: Node, start: str, total: str) -> list[str]:
    """What is_causal and the window attributes let query start + i see of the keys, boolean [S, T] each."""
    left, right = (node.attrs.get(f"{side}_window_size", -1) for side in ("left", "right"))
    if min(left, right) < -1:
        e.refuse("Attention has a negative window.", found=f"{left} to the left, {right} to the right")
    if node.attrs.get("is_causal", 0):
        right = 0
    if left < 0 and right < 0:
        return []
    zero, one = (e.constant(np.array(n, np.int64)) for n in (0, 1))
    queries = e.add("Range", [start, _add(e, start, _axis(e, TOKENS, 1)), one])
    i, j = e.add("Unsqueeze", [queries, e.ints(1)]), e.add("Range", [zero, total, one])
    masks = []
    if right >= 0:
        last = _add(e, i, e.constant(np.array(right, np.int64))) if right else i
        masks.append(e.add("LessOrEqual", [j, last], dtype="bool"))
    if left >= 0:
        first = _subtract(e, i, e.constant(np.array(left, np.int64)))
        masks.append(e.add("GreaterOrEqual", [j, first], dtype="bool"))
    return masks


def _repeat(e: Expansion, x: str, q: str) -> str:
    """[B, kv_heads, T, D] → [B, heads, T, D], with as many heads as `q` has, which the probes find out."""
    heads, kv_heads = (e.add("Gather", [e.add("Shape", [t], dtype="int64"), e.ints(1)]) for t in (q, x))
    one = e.ints(1)
    group = e.add("Div", [heads, kv_heads])
    spread = e.add("Unsqueeze", [x, e.ints(2)])
    wide = e.add("Expand", [spread, e.add("Concat", [one, one, group, one, one], attrs={"axis": 0})])
    dim = e.add("Gather", [e.add("Shape", [x], dtype="int64"), e.ints(3)])
    target = e.add("Concat", [e.ints(0), heads, e.ints(-1), dim], attrs={"axis": 0})
    return e.add("Reshape", [wide, target])


def tensor_scatter(e: Expansion, node: Node) -> None:
    """Always raises FrontendError."""
    e.refuse(
        "The cache is a buffer of fixed size that TensorScatter writes to.",
        expected="past keys and values that grow by concatenation",
        hint="Export with a dynamic cache.",
    )


EXPANDERS = {"Attention": attention, "TensorScatter": tensor_scatter}
