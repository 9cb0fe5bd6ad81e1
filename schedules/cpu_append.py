"""Append on the CPU: encodes the pages that leave the exact window, then writes the new tokens to sinks and tail."""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_cache import Cache, argument
from tqc.schedules.cpu_config import CpuConfig
from tqc.schedules.cpu_encode import PageEncoder
from tqc.schedules.cpu_simd import Simd, Variable, f32, i64, let, maximum, minimum, parallel_if, scratch

SERIAL_VALUES = 8192
"""Values of K that one thread writes faster than it wakes another."""


def make_append(layout: CacheLayout, config: CpuConfig, seed: int = 0) -> PrimFunc:
    """append(k [B, Hk, S, D], v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state), in place.

    Rows from `new_len[b]` on are padding. Pages are encoded whole, from the tail and from `k`, `v`, before the tail is
    written. A vector whose scale is not a finite float16 gets the scale NaN.
    """
    return _Append(layout, config, seed).build()


class _Append:
    def __init__(self, layout: CacheLayout, config: CpuConfig, seed: int) -> None:
        self.layout, self.seed = layout, seed
        self.simd = Simd(config)

    def build(self) -> PrimFunc:
        layout = self.layout
        with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
            T.func_name("append")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            batch, chunk = tirx.Var("batch", "int64"), tirx.Var("chunk", "int64")
            shape = (batch, layout.kv_heads, chunk, layout.head_dim)
            self.k, self.v = argument("k", shape, "float32"), argument("v", shape, "float32")
            self.cache = Cache.declare(layout, batch)
            due = Variable(1, i64(0), "int64")
            with T.serial(batch) as b:
                first, last = self._due(b)
                due.set(maximum(due.value, last - first))
            most = let(due.value)
            with T.If(most > 0), T.Then(), T.parallel(batch * layout.kv_heads * most) as task:
                b = let(tirx.floordiv(task, layout.kv_heads * most))
                h = let(tirx.floormod(tirx.floordiv(task, most), i64(layout.kv_heads)))
                first, last = self._due(b)
                page = let(first + tirx.floormod(task, most))
                with T.If(page < last), T.Then():
                    self._flush(b, h, page)
            writers = batch * layout.kv_heads
            parallel_if(writers * chunk * layout.head_dim > SERIAL_VALUES, writers, self._keep_exact)
        return builder.get()

    def _lengths(self, b: Expr) -> tuple[Expr, Expr, Expr]:
        """Tokens before, new tokens, tokens after the call."""
        length, new = self.cache.tokens(self.cache.length, b), self.cache.tokens(self.cache.new_len, b)
        return length, new, let(length + new)

    def _due(self, b: Expr) -> tuple[Expr, Expr]:
        """The pages first ≤ page < last that this call codes."""
        length, new, total = self._lengths(b)
        first = let(tirx.floordiv(self.cache.coded(length), i64(self.layout.page)))
        last = self.cache.pages(self.cache.coded(total))
        if self.layout.ring:  # the others would be overwritten at once, by tasks that run beside them
            first = let(maximum(first, last - self.cache.ring))
        return first, let(tirx.Select(new > 0, last, first))

    def _flush(self, b: Expr, h: Expr, page: Expr) -> None:
        layout, cache = self.layout, self.cache
        length, _, total = self._lengths(b)
        start = let(page * layout.page + layout.sinks)
        # Token i of the page: from the tail while i < old, from the chunk while i < known, not there yet after that.
        old = let(maximum(minimum(length - start, i64(layout.page)), i64(0)))
        known = let(minimum(total - start, i64(layout.page)))
        fresh = let(start - length)
        ring = cache.ring_page(page)
        at = (*cache.place(b, page), h)

        keys = scratch((layout.head_dim, layout.page))
        with T.serial(i64(layout.head_dim)) as d:
            with T.serial(i64(layout.page // self.simd.lanes)) as c:
                lane = c * self.simd.lanes
                tail = cache.state["tail_k"]
                with T.If(old > 0):
                    with T.Then():
                        self.simd.store(keys, self.simd.load(tail, b, h, ring, d, lane), d, lane)
                    with T.Else():
                        self.simd.store(keys, self.simd.splat(0.0), d, lane)
        with T.serial(old, known) as i, T.serial(i64(layout.head_dim)) as d:
            T.buffer_store(keys, self.k[b, h, fresh + i, d], [d, i])
        with T.serial(known, i64(layout.page)) as i, T.serial(i64(layout.head_dim)) as d:
            T.buffer_store(keys, f32(0), [d, i])
        PageEncoder(self.simd, layout, "k", cache.state, self.seed).write(keys, at)

        vectors = scratch((layout.page, layout.head_dim))
        with T.serial(i64(layout.head_dim // self.simd.lanes)) as c:
            lane = c * self.simd.lanes
            with T.serial(i64(0), old) as i:
                self.simd.store(vectors, self.simd.load(cache.state["tail_v"], b, h, ring, i, lane), i, lane)
            with T.serial(old, known) as i:
                self.simd.store(vectors, self.simd.load(self.v, b, h, fresh + i, lane), i, lane)
            with T.serial(known, i64(layout.page)) as i:
                self.simd.store(vectors, self.simd.splat(0.0), i, lane)
        PageEncoder(self.simd, layout, "v", cache.state, self.seed).write(vectors, at)

    def _keep_exact(self, task: Expr) -> None:
        """Writes sinks, and the tail's tokens that stay visible or wait for their page to fill."""
        layout, cache = self.layout, self.cache
        b = let(tirx.floordiv(task, i64(layout.kv_heads)))
        h = let(tirx.floormod(task, i64(layout.kv_heads)))
        length, new, total = self._lengths(b)
        if layout.sinks:
            with T.serial(i64(0), maximum(minimum(new, layout.sinks - length), i64(0))) as i:
                with T.serial(i64(layout.head_dim)) as d:
                    slot = let(length + i)
                    self._put(cache.state["sink_k"], self.k[b, h, i, d], [b, h, d, slot])
                    self._put(cache.state["sink_v"], self.v[b, h, i, d], [b, h, slot, d])
        coded = cache.coded(total)
        first = let(tirx.floordiv(coded, i64(layout.page)) * layout.page + layout.sinks)
        begin = let(minimum(maximum(first - length, i64(0)), new))
        with T.serial(begin, new) as i:
            token = let(length + i - layout.sinks)
            ring = cache.ring_page(let(tirx.floordiv(token, i64(layout.page))))
            slot = let(tirx.floormod(token, i64(layout.page)))
            with T.serial(i64(layout.head_dim)) as d:
                self._put(cache.state["tail_k"], self.k[b, h, i, d], [b, h, ring, d, slot])
                self._put(cache.state["tail_v"], self.v[b, h, i, d], [b, h, ring, slot, d])

    def _put(self, buffer: Buffer, value: Expr, index: list[Expr]) -> None:
        T.buffer_store(buffer, value if buffer.dtype == "float32" else tirx.Cast(buffer.dtype, value), index)
