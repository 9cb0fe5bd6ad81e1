"""What stands in the way of operations that are known and not supported."""

from __future__ import annotations

from collections.abc import Iterable

from .graph import Node

_SEPARATE = "its cache is not what GroupQueryAttention or MultiHeadAttention have, separate past keys and values"
_REASONS = {
    "Attention": f"projections are packed into it, and {_SEPARATE}",
    "DecoderMaskedMultiHeadAttention": f"it serves one token, and {_SEPARATE}",
    "DecoderMaskedSelfAttention": f"it serves one token, and {_SEPARATE}",
    "PagedAttention": "its cache is paged by the caller: tqc pages and compresses the cache itself",
    "SparseAttention": "it sees a pattern of blocks, not every earlier token",
    "LinearAttention": "it keeps a state and no keys and values: there is no cache to compress",
    "CausalConvWithState": "it keeps a state beside keys and values",
    "MoE": "experts are not supported",
    "QMoE": "experts are not supported",
    "MRotaryEmbedding": "it rotates by three positions a token, as models of images do",
}


def reasons(nodes: Iterable[Node]) -> str:
    """Why operations of com.microsoft among `nodes` are not supported, as far as there is more to say; else ''."""
    found = dict.fromkeys(node.op for node in nodes if node.domain == "com.microsoft" and node.op in _REASONS)
    return "; ".join(f"{op}: {_REASONS[op]}" for op in found)
