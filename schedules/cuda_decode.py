"""Decode on CUDA: one query a sequence against its cache, the context split over blocks, merged in a fixed order."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_attend import Attention, Scores, sink_score
from tqc.schedules.cuda_builder import (
    argument,
    blocks,
    build_kernel,
    dimension,
    f32,
    i32,
    local,
    named,
    phase,
    store,
    to,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books
from tqc.schedules.cuda_config import CudaConfig
from tqc.schedules.cuda_regions import CachedTiles, Share


def make_decode(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    dtype: str = "float32",
    config: CudaConfig | None = None,
) -> tirx.PrimFunc:
    """decode(q [B, H, 1, R], length [B], new_len [B], page_table [B, NP], *state, y [B, H, 1, P]); q, y of `dtype`.

    R and P are the rows of a coded key and of a coded value: head_dim and, behind it, those of sketches. The cache
    already holds the new token: attention is over length + new_len tokens. Sequences without a new token get zeros. Two
    launches: partial results of `config.splits` blocks per KV head and sequence, then their merge; the partial results
    lie in a workspace of TVM's. `sink_logits`: behind q comes an argument [H] float32, the logit of a token without a
    value that each query head sees; it is counted in the merge. Raises TargetError if the layout does not fit a block.
    """
    config = config or CudaConfig()
    config.check(layout, dtype)
    layout.check_window(window)
    scores = Scores(softmax_scale, softcap, window)
    return build_kernel("cuda_decode", lambda: _emit(layout, scores, sink_logits, dtype, config))


def _emit(layout: CacheLayout, scores: Scores, sink_logits: bool, dtype: str, config: CudaConfig) -> None:
    batch, heads, v_rows = dimension("batch"), layout.query_heads, layout.form("v").rows
    q = argument("q", (batch, heads, 1, layout.form("k").rows), dtype)
    logits = argument("sink_logits", (heads,), "float32") if sink_logits else None
    cache = Cache.declare(layout, batch)
    y = argument("y", (batch, heads, 1, v_rows), dtype)
    # A short context needs few splits: the table's width, or the ring, bounds the pages there can be.
    most = min(config.splits, layout.ring + layout.tail_pages + 1) if layout.ring else config.splits
    splits = tirx.min(cache.page_table.shape[1] + 1, tirx.const(most, "int64"))
    parts = named("parts", T.sblock_alloc_buffer((batch, heads, most, v_rows), "float32"))
    tops = named("tops", T.sblock_alloc_buffer((batch, heads, most), "float32"))
    totals = named("totals", T.sblock_alloc_buffer((batch, heads, most), "float32"))

    with blocks(splits, layout.kv_heads, batch) as (split, head, b):
        attention = Attention(layout, config, scores, queries=1)
        books = Books.declare((layout.form("k"), layout.form("v")), config.threads)
        held = T.Bind(tirx.Select(cache.new_len[b] > 0, cache.length[b] + cache.new_len[b], 0))
        oldest = held - scores.window if scores.window else tirx.const(0, "int32")
        attention.begin(lambda row, d: f32(q[b, head * layout.group + row, 0, d]))
        tiles = CachedTiles(cache, books, b, head, held, oldest)
        tiles.visit(Share(i32(split), i32(splits)), lambda tile: attention.add(tile, lambda row: held - 1))
        total = attention.finish()
        with phase(v_rows, config.threads) as d:
            for row in range(layout.group):
                store(parts, attention.mixed_sum(row, d), b, head * layout.group + row, split, d)
        with phase(layout.group, config.threads) as row:
            store(tops, attention.top[row], b, head * layout.group + row, split)
            store(totals, total[row], b, head * layout.group + row, split)
    _emit_merge(parts, tops, totals, logits, y, splits, config)


def _emit_merge(
    parts: Buffer, tops: Buffer, totals: Buffer, logits: Buffer | None, y: Buffer, splits: Expr, config: CudaConfig
) -> None:
    """y = Σ f · part / Σ f · total over the splits, f = 2^(top − highest top); zeros where nothing was seen.

    A sink logit is one more top, of total 1 and part 0.
    """
    batch, heads, _, v_rows = y.shape
    with blocks(1, heads, batch) as (_, head, b), phase(int(v_rows), config.threads) as d:
        state = local("merged", 3)
        sink = None if logits is None else sink_score(logits, head)
        store(state, tops[b, head, 0] if sink is None else tirx.max(tops[b, head, 0], sink), 0)
        with T.serial(0, splits) as split:
            store(state, tirx.max(state[0], tops[b, head, split]), 0)
        store(state, f32(0.0), 1)
        store(state, f32(0.0) if sink is None else tirx.exp2(sink - state[0]), 2)
        with T.serial(0, splits) as split:
            factor = T.Bind(tirx.exp2(tops[b, head, split] - state[0]))
            store(state, state[1] + factor * parts[b, head, split, d], 1)
            store(state, state[2] + factor * totals[b, head, split], 2)
        store(y, to(y.dtype, tirx.Select(tirx.EQ(state[2], f32(0.0)), f32(0.0), state[1] / state[2])), b, head, 0, d)
