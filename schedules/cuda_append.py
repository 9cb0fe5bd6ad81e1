"""Append on CUDA: encode the pages that leave the exact window, then write the new sinks and the tail.

Two launches, because the second overwrites ring pages of the tail that the first still reads. The grid covers every
page that could be due for a chunk of S tokens; which are is decided on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    divide,
    f32,
    i32,
    i64,
    phase,
    store,
    to,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import AppendConfig, check_dtype, default_config
from tqc.schedules.cuda_flush import Flush
from tqc.schedules.cuda_fragments import exact_element

_TOKENS = 16  # tokens that one block writes to the sinks and the tail


def make_append(
    layout: CacheLayout,
    *,
    dtype: str = "float32",
    seed: int = 0,
    config: AppendConfig | None = None,
    arch: str = "sm_80",
) -> tirx.PrimFunc:
    """append(k [B, Hk, S, D], v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state), in place.

    k, v are of `dtype`; S may exceed the tail. `seed`: that of the cache, which chooses its sketches. Pages that become
    due are encoded from the tail and the chunk, then rows that stay exact are written. Raises TargetError if the layout
    does not fit a block.
    """
    config = config or default_config("append", layout, arch)
    check_dtype(dtype)
    config.check(layout, arch)
    return build_kernel("cuda_append", lambda: _emit(layout, dtype, seed, config))


def _emit(layout: CacheLayout, dtype: str, seed: int, config: AppendConfig) -> None:
    batch, chunk = dimension("batch"), dimension("chunk")
    k = argument("k", (batch, layout.kv_heads, chunk, layout.head_dim), dtype)
    v = argument("v", (batch, layout.kv_heads, chunk, layout.head_dim), dtype)
    cache = Cache.declare(layout, batch)
    _emit_flush(cache, k, v, seed, config)
    _emit_writes(cache, k, v, config)


def _emit_flush(cache: Cache, k: Buffer, v: Buffer, seed: int, config: AppendConfig) -> None:
    layout, (batch, heads, chunk, _) = cache.layout, k.shape
    due = tirx.floordiv(chunk, i64(i32(layout.page))) + 2
    if layout.ring:
        due = tirx.min(due, cache.ring)
    # A chunk has few pages: blocks are fewer than fit, and need no small number of registers.
    with blocks(due, int(heads), batch, resident=1) as (x, head, b):
        flush = Flush.declare(layout, seed, config.threads)
        length = T.Bind(cache.length[b])
        total = T.Bind(length + cache.new_len[b])
        coded = cache.coded(total)
        first, stop = tirx.floordiv(cache.coded(length), i32(layout.page)), cache.pages(coded)
        if layout.ring:  # the others would be overwritten at once, by blocks that run beside them
            first = tirx.max(first, stop - i32(cache.ring))
        page = T.Bind(first + i32(x))
        with T.serial(0, T.Bind(tirx.Select(page < stop, i32(1), i32(0)))):
            fresh = {"k": k, "v": v}
            values = {side: _Page(cache, side, x, b, head, page, length, total).value for side, x in fresh.items()}
            flush.write(cache, (*cache.place(b, page), head), values)


@dataclass(frozen=True)
class _Page:
    """The exact vectors of one page: from the tail, or from the chunk where they are fresh; zeros beyond the end."""

    cache: Cache
    side: str
    fresh: Buffer
    b: Expr
    head: Expr
    page: Expr
    length: Expr
    total: Expr

    def value(self, token: Expr, d: Expr) -> Expr:
        layout = self.cache.layout
        tail, ring = self.cache.state[f"tail_{self.side}"], self.cache.ring_page(self.page)
        at = layout.sinks + self.page * layout.page + token
        old = f32(tail[self.b, self.head, ring, exact_element(self.side, token, d, STRIPS)])
        # As it would be in the tail: codes do not depend on how tokens were appended.
        new = f32(to("float16", f32(self.fresh[self.b, self.head, i64(at - self.length), d])))
        value = tirx.if_then_else(at < self.length, old, new)
        return tirx.if_then_else(at < self.total, value, f32(0.0)) if layout.recent == 0 else value


def _emit_writes(cache: Cache, k: Buffer, v: Buffer, config: AppendConfig) -> None:
    """Writes the rows of the chunk that are sinks or stay in the tail (`recent = 0`: the page being filled)."""
    layout, (batch, heads, chunk, _) = cache.layout, k.shape
    state, page, dim = cache.state, layout.page, layout.head_dim
    with blocks(tirx.floordiv(chunk + (_TOKENS - 1), i64(i32(_TOKENS))), int(heads), batch) as (x, head, b):
        length, new = T.Bind(cache.length[b]), T.Bind(cache.new_len[b])
        coded = cache.coded(length + new)
        kept = coded if layout.recent else T.Bind(tirx.floordiv(coded, i32(page)) * page)
        with phase(_TOKENS * dim, config.threads) as item:
            token, d = divide(item, dim)
            row = T.Bind(i32(x) * _TOKENS + token)
            at = T.Bind(length + row)
            t = T.Bind(at - layout.sinks)

            def write(region: str, strips: int, place: Expr, *indices: Expr) -> None:
                for side, fresh in (("k", k), ("v", v)):
                    element = exact_element(side, place, d, strips)
                    store(state[f"{region}_{side}"], f32(fresh[b, head, i64(row), d]), b, head, *indices, element)

            if layout.sinks:
                with when(tirx.all(row < new, t < 0)):
                    write("sink", layout.sink_slots // STRIP, at)
            with when(tirx.all(row < new, t >= 0, t >= kept)):
                ring = T.Bind(cache.ring_page(tirx.floordiv(t, i32(page))))
                write("tail", STRIPS, T.Bind(tirx.floormod(t, i32(page))), ring)
