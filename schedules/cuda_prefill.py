"""Prefill on CUDA: a chunk of queries against the cached tokens and, causally, against the chunk's own exact k, v.

A block has some queries with their whole GQA group as rows, dealt out to its warps or warpgroups, and goes over all
tiles: coded pages, the tail, sinks, and the chunk itself.
"""

from __future__ import annotations

from tvm import tirx

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import argument, blocks, build_kernel, dimension, i32, threads
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import PrefillConfig, check_dtype, default_config
from tqc.schedules.cuda_flash import Scores
from tqc.schedules.cuda_prefill_block import PrefillBlock
from tqc.schedules.cuda_prefill_groups import GroupPrefillBlock


def make_prefill(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    dtype: str = "float32",
    config: PrefillConfig | None = None,
    arch: str = "sm_80",
) -> tirx.PrimFunc:
    """prefill(q [B, H, S, R], k, v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state, y [B, H, S, P]).

    q, y are of `dtype`, k and v float16; R and P are the rows of a coded key and of a coded value: D and, behind it,
    those of sketches. The cache does not hold the chunk yet: query i, at position length + i, sees the `length` cached
    tokens and rows j ≤ i of the chunk. Rows from new_len on are padding and get zeros. `sink_logits`: behind v comes an
    argument [H] float32, the logit of a token without a value that each query head sees. Raises TargetError if the
    layout does not fit a block.
    """
    config = config or default_config("prefill", layout, arch)
    check_dtype(dtype)
    config.check(layout, arch)
    layout.check_window(window)
    scores = Scores(softmax_scale, softcap, window)
    return build_kernel("cuda_prefill", lambda: _emit(layout, scores, sink_logits, dtype, config))


def _emit(layout: CacheLayout, scores: Scores, sink_logits: bool, dtype: str, config: PrefillConfig) -> None:
    batch, chunk, dim = dimension("batch"), dimension("chunk"), layout.head_dim
    q = argument("q", (batch, layout.query_heads, chunk, layout.form("k").rows), dtype)
    k = argument("k", (batch, layout.kv_heads, chunk, dim), "float16")
    v = argument("v", (batch, layout.kv_heads, chunk, dim), "float16")
    logits = argument("sink_logits", (layout.query_heads,), "float32") if sink_logits else None
    cache = Cache.declare(layout, batch)
    y = argument("y", (batch, layout.query_heads, chunk, layout.form("v").rows), dtype)
    queries = config.queries(layout)
    tiles = tirx.floordiv(chunk + (queries - 1), tirx.const(queries, "int64"))
    with blocks(tiles, layout.kv_heads, batch) as (x, head, b), threads(config.threads) as thread:
        kind = GroupPrefillBlock if config.wgmma else PrefillBlock
        block = kind(layout, scores, config, cache, b, head, i32(x) * queries, thread)
        block.read_queries(q)
        block.begin(logits)
        block.visit_cache()
        block.visit_chunk(k, v)
        block.write(y)
