"""Operations that are known and not supported, each with what stands in the way."""

from __future__ import annotations

from tqc.frontend.graph import Node

from .context import Expansion

_CACHE = "Export with GroupQueryAttention or MultiHeadAttention and separate past keys and values."
_REASONS = {
    "Attention": ("Its projections and its cache of keys and values are packed into one tensor each.", _CACHE),
    "DecoderMaskedMultiHeadAttention": ("Its cache is a buffer shared between steps, and it serves one token.", _CACHE),
    "DecoderMaskedSelfAttention": ("Its cache is a buffer shared between steps, and it serves one token.", _CACHE),
    "PagedAttention": ("Its cache is paged by its caller: tqc pages and compresses the cache itself.", _CACHE),
    "SparseAttention": ("It sees a pattern of blocks, not every earlier token.", ""),
    "LinearAttention": ("It keeps a state instead of keys and values: there is no cache to compress.", ""),
    "CausalConvWithState": ("It keeps a state beside keys and values.", ""),
    "MoE": ("Experts are not supported.", ""),
    "QMoE": ("Experts are not supported.", ""),
    "MRotaryEmbedding": ("It rotates by three positions a token, as models of images do.", ""),
}


def refuse(expansion: Expansion, node: Node) -> None:
    """Raises FrontendError with the reason, and what to do instead where there is something."""
    reason, hint = _REASONS[node.op]
    expansion.refuse(f"{node.op} is not supported. {reason}", **({"hint": hint} if hint else {}))


EXPANDERS = {f"com.microsoft::{op}": refuse for op in _REASONS}
