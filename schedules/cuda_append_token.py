"""Append in decode on CUDA: one token a sequence, in one launch that also encodes the page that becomes due, if any.

A block has a KV head of a sequence. Keys and values may come unrotated: a warp turns each on its way into the cache.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import STRIP, STRIPS
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import (
    argument,
    blocks,
    build_kernel,
    dimension,
    f32,
    i32,
    store,
    threads,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import AppendConfig, check_dtype, default_config
from tqc.schedules.cuda_flush import Flush
from tqc.schedules.cuda_fragments import exact_element
from tqc.schedules.cuda_ptx import WARP, hold, registers, sync_block
from tqc.schedules.cuda_rotate import Turn, WarpRotation


def make_append_token(
    layout: CacheLayout,
    *,
    dtype: str = "float32",
    seed: int = 0,
    turns: dict[str, Turn] | None = None,
    config: AppendConfig | None = None,
    arch: str = "sm_80",
) -> tirx.PrimFunc:
    """append(k [B, Hk, 1, D], v [B, Hk, 1, D], length [B], new_len [B], page_table [B, NP], *state), in place.

    k, v are of `dtype`. `turns`: the rotation of the sides, k or v, that do not come in the cache's basis. `seed`: that
    of the cache, which chooses its sketches. Raises TargetError if the layout does not fit a block.
    """
    config = config or default_config("append", layout, arch)
    check_dtype(dtype)
    config.check(layout, arch)
    return build_kernel("cuda_append_token", lambda: _emit(layout, dtype, seed, turns or {}, config))


def _emit(layout: CacheLayout, dtype: str, seed: int, turns: dict[str, Turn], config: AppendConfig) -> None:
    batch, page = dimension("batch"), layout.page
    fresh = {side: argument(side, (batch, layout.kv_heads, 1, layout.head_dim), dtype) for side in "kv"}
    cache = Cache.declare(layout, batch)
    with blocks(1, layout.kv_heads, batch, resident=1) as (_, head, b):  # few blocks: registers need not be few
        length = T.Bind(cache.length[b])
        new = T.Bind(tirx.min(cache.new_len[b], i32(1)))
        total = T.Bind(length + new)

        def write() -> None:
            _write_token(cache, fresh, b, head, length, new, turns, config.threads)

        if layout.recent == 0:  # the token is part of its page already
            write()
        coded = cache.coded(total)
        # Of a page that is coded token by token the last one is due at every token, else one that has become whole.
        due = total > length if layout.recent == 0 else coded > cache.coded(length)
        with T.serial(0, T.Bind(tirx.Select(tirx.all(due, coded > 0), i32(1), i32(0)))):
            flush = Flush.declare(layout, seed, config.threads)
            at = T.Bind(tirx.floordiv(coded - 1, i32(page)))
            values = {side: _held(cache, side, b, head, at, total) for side in "kv"}
            flush.write(cache, (*cache.place(b, at), head), values)
        if layout.recent:  # after the page is read: the token may take the place of one of its tokens
            write()


def _held(cache: Cache, side: str, b: Expr, head: Expr, page: Expr, total: Expr):
    """The exact vectors of a page, from the tail; zeros beyond the end."""
    layout, tail = cache.layout, cache.state[f"tail_{side}"]
    ring = T.Bind(cache.ring_page(page))

    def value(token: Expr, d: Expr) -> Expr:
        found = f32(tail[b, head, ring, exact_element(side, token, d, STRIPS)])
        at = layout.sinks + page * layout.page + token
        return tirx.Select(at < total, found, f32(0.0)) if layout.recent == 0 else found

    return value


def _write_token(
    cache: Cache,
    fresh: dict[str, Buffer],
    b: Expr,
    head: Expr,
    length: Expr,
    new: Expr,
    turns: dict[str, Turn],
    count: int,
) -> None:
    """Writes the token to the sinks or the tail, a side by each of two warps, and waits for all."""
    layout, dim = cache.layout, cache.layout.head_dim
    size = -(-dim // WARP)
    with threads(count) as thread:
        lane, warp = hold(thread & 31), hold(thread >> 5)
        t = hold(length - layout.sinks)
        for number, (side, x) in enumerate(fresh.items()):
            with when(tirx.all(tirx.EQ(warp, i32(number % (count // WARP))), new > 0)):
                values = registers("token_values", size)
                for e in range(size):
                    at = tirx.min(lane * size + e, i32(dim - 1))
                    store(values, f32(x[b, head, 0, at]), e)
                if side in turns:
                    WarpRotation(dim, lane, turns[side].seed, turns[side].rounds).apply(values)
                for e in range(size):
                    d = hold(lane * size + e)
                    with when(d < dim):
                        if layout.sinks:
                            with when(t < 0):
                                at = exact_element(side, length, d, layout.sink_slots // STRIP)
                                store(cache.state[f"sink_{side}"], values[e], b, head, at)
                        with when(t >= 0):
                            ring = hold(cache.ring_page(tirx.floordiv(t, i32(layout.page))))
                            at = exact_element(side, hold(tirx.floormod(t, i32(layout.page))), d, STRIPS)
                            store(cache.state[f"tail_{side}"], values[e], b, head, ring, at)
        sync_block()
