"""Prefill on CUDA: a chunk of queries against the cached tokens and, causally, against the chunk's own exact k, v."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_attend import Attention, Scores, Tile, sink_score
from tqc.schedules.cuda_builder import (
    argument,
    blocks,
    build_kernel,
    dimension,
    f32,
    i32,
    i64,
    phase,
    store,
    to,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books
from tqc.schedules.cuda_config import CudaConfig
from tqc.schedules.cuda_regions import CachedTiles, Share, visit_fresh


def make_prefill(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    dtype: str = "float32",
    config: CudaConfig | None = None,
) -> tirx.PrimFunc:
    """prefill(q [B, H, S, R], k, v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state, y [B, H, S, P]).

    q, k, v, y are of `dtype`; R and P are the rows of a coded key and of a coded value: D and, behind it, those of
    sketches. The cache does not hold the chunk yet: query i, at position length + i, sees the `length` cached tokens
    and rows j ≤ i of the chunk. Rows from new_len on are padding and get zeros. A block takes `config.queries(layout)`
    queries of one GQA group. `sink_logits`: behind v comes an argument [H] float32, the logit of a token without a
    value that each query head sees. Raises TargetError if the layout does not fit a block.
    """
    config = config or CudaConfig()
    config.check(layout, dtype, config.queries(layout))
    layout.check_window(window)
    scores = Scores(softmax_scale, softcap, window)
    return build_kernel("cuda_prefill", lambda: _emit(layout, scores, sink_logits, dtype, config))


def _emit(layout: CacheLayout, scores: Scores, sink_logits: bool, dtype: str, config: CudaConfig) -> None:
    batch, chunk, dim, group = dimension("batch"), dimension("chunk"), layout.head_dim, layout.group
    queries, page, v_rows = config.queries(layout), layout.page, layout.form("v").rows
    q = argument("q", (batch, layout.query_heads, chunk, layout.form("k").rows), dtype)
    k = argument("k", (batch, layout.kv_heads, chunk, dim), dtype)
    v = argument("v", (batch, layout.kv_heads, chunk, dim), dtype)
    logits = argument("sink_logits", (layout.query_heads,), "float32") if sink_logits else None
    cache = Cache.declare(layout, batch)
    y = argument("y", (batch, layout.query_heads, chunk, v_rows), dtype)
    tiles_of_queries = tirx.floordiv(chunk + (queries - 1), tirx.const(queries, "int64"))

    with blocks(tiles_of_queries, layout.kv_heads, batch) as (x, head, b):
        attention = Attention(layout, config, scores, queries)
        books = Books.declare((layout.form("k"), layout.form("v")), config.threads)
        first, new = T.Bind(i32(x) * queries), T.Bind(cache.new_len[b])
        active = tirx.LT(first, new)
        length = T.Bind(cache.length[b])
        held = T.Bind(tirx.Select(active, length, i32(0)))
        stop = T.Bind(tirx.Select(active, tirx.min(first + queries, new), i32(0)))
        oldest = T.Bind(length + first - scores.window + 1) if scores.window else i32(0)

        def query(row: Expr) -> Expr:
            return first + tirx.floordiv(row, i32(group))

        def query_head(row: Expr) -> Expr:
            return head * group + tirx.floormod(row, i32(group))

        def load_query(row: Expr, d: Expr) -> Expr:
            index = tirx.min(i64(query(row)), chunk - 1)
            return f32(q[b, query_head(row), index, d])

        def add(tile: Tile) -> None:
            attention.add(tile, lambda row: length + query(row), lambda row: query(row) < new)

        attention.begin(load_query, (lambda row: sink_score(logits, query_head(row))) if sink_logits else None)
        everything = Share(i32(0), i32(1))
        CachedTiles(cache, books, b, head, held, oldest).visit(everything, add)
        visit_fresh(k, v, b, head, page, length, oldest, stop, add)
        total = attention.finish()
        with phase(v_rows, config.threads) as d:
            for row in range(attention.rows):
                at = i64(query(i32(row)))
                seen = tirx.NE(total[row], f32(0.0))
                value = tirx.Select(seen, attention.mixed_sum(row, d) / total[row], f32(0.0))
                with when(at < chunk):
                    store(y, to(dtype, value), b, query_head(i32(row)), at, d)
