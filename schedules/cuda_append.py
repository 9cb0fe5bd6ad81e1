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

from tqc.codec.layout import LANES, CacheLayout, code_bits
from tqc.schedules.cuda_builder import (
    accumulate,
    argument,
    blocks,
    build_kernel,
    dimension,
    divide,
    f32,
    i32,
    i64,
    local,
    phase,
    shared,
    store,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books, Encoder, plane_offset, store_group
from tqc.schedules.cuda_config import CudaConfig

_HALF_OVERFLOW = 65520.0  # from here on float16 rounds to infinity
_TOKENS = 16  # tokens that one block writes to the sinks and the tail


def make_append(layout: CacheLayout, *, dtype: str = "float32", config: CudaConfig | None = None) -> tirx.PrimFunc:
    """append(k [B, Hk, S, D], v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state), in place.

    k, v are of `dtype`; S may exceed the tail. Pages that become due are encoded from the tail and the chunk, then
    rows that stay exact are written. Raises TargetError if the layout does not fit a block.
    """
    config = config or CudaConfig()
    config.check(layout, dtype)
    return build_kernel("cuda_append", lambda: _emit(layout, dtype, config))


def _emit(layout: CacheLayout, dtype: str, config: CudaConfig) -> None:
    batch, chunk = dimension("batch"), dimension("chunk")
    k = argument("k", (batch, layout.kv_heads, chunk, layout.head_dim), dtype)
    v = argument("v", (batch, layout.kv_heads, chunk, layout.head_dim), dtype)
    cache = Cache.declare(layout, batch)
    _emit_flush(cache, k, v, config)
    _emit_writes(cache, k, v, config)


def _emit_flush(cache: Cache, k: Buffer, v: Buffer, config: CudaConfig) -> None:
    layout, (batch, heads, chunk, _) = cache.layout, k.shape
    due = tirx.floordiv(chunk, i64(i32(layout.page))) + 2
    if layout.ring:
        due = tirx.min(due, cache.ring)
    with blocks(due, int(heads), batch) as (x, head, b):
        thresholds = Books.declare((layout.k, layout.v), layout.head_dim, config.threads, thresholds=True)
        centroids = Books.declare((layout.k, layout.v), layout.head_dim, config.threads)
        length = T.Bind(cache.length[b])
        total = T.Bind(length + cache.new_len[b])
        coded = cache.coded(total)
        first, stop = tirx.floordiv(cache.coded(length), i32(layout.page)), cache.pages(coded)
        if layout.ring:  # the others would be overwritten at once, by blocks that run beside them
            first = tirx.max(first, stop - i32(cache.ring))
        page = T.Bind(first + i32(x))
        with T.serial(0, T.Bind(tirx.Select(page < stop, i32(1), i32(0)))):
            at = (*cache.place(b, page), head)
            for side, fresh in (("k", k), ("v", v)):
                source = _Page(cache, side, fresh, b, head, page, length, total)
                _PageWriter(layout, config, side, cache.state, at).write(source, thresholds, centroids)


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
        indices = (d, token) if self.side == "k" else (token, d)
        old = f32(tail[self.b, self.head, ring, *indices])
        new = f32(self.fresh[self.b, self.head, i64(at - self.length), d])
        value = tirx.if_then_else(at < self.length, old, new)
        return tirx.if_then_else(at < self.total, value, f32(0.0)) if layout.recent == 0 else value


@dataclass(frozen=True)
class _PageWriter:
    """Writes one side of the page `at` (place and KV head). Work is cut into groups of 16 values, as the codes are."""

    layout: CacheLayout
    config: CudaConfig
    side: str
    state: dict[str, Buffer]
    at: tuple[Expr, ...]

    def write(self, source: _Page, thresholds: Books, centroids: Books) -> None:
        bits = code_bits(getattr(self.layout, self.side))
        if not bits:
            self._copy(source)
            return
        norm = self._norms(source)
        self._scales(source, norm, thresholds.tables[bits], centroids.tables[bits], bits)
        self._codes(source, norm, thresholds.tables[bits], bits)

    def _phase(self, count: int):
        return phase(count, self.config.threads)

    def _copy(self, source: _Page) -> None:
        codes, dim, page = self.state[f"{self.side}_codes"], self.layout.head_dim, self.layout.page
        with self._phase(page * dim) as item:
            d, token = divide(item, page) if self.side == "k" else reversed(divide(item, dim))
            store(codes, source.value(token, d), *self.at, item)

    def _norms(self, source: _Page) -> Buffer:
        page, groups = self.layout.page, self.layout.head_dim // LANES
        parts, norm = shared(f"squares_{self.side}", groups, page), shared(f"norm_{self.side}", page)
        with self._phase(groups * page) as item:
            group, token = divide(item, page)
            total = local("square_sum", 1)
            store(total, f32(0.0), 0)
            with T.unroll(0, LANES) as j:
                x = T.Bind(source.value(token, group * LANES + j))
                accumulate(total, x * x, 0)
            store(parts, total[0], group, token)
        with self._phase(page) as token:
            store(norm, tirx.sqrt(_sum_rows(parts, groups, token)), token)
        return norm

    def _scales(self, source: _Page, norm: Buffer, thresholds: Buffer, centroids: Buffer, bits: int) -> None:
        """scale = ‖z‖ / ⟨z/‖z‖, ẑ⟩: 0 for a zero vector, NaN where it is no finite float16."""
        page, groups = self.layout.page, self.layout.head_dim // LANES
        parts = shared(f"products_{self.side}", groups, page)
        with self._phase(groups * page) as item:
            group, token = divide(item, page)
            total = local("product_sum", 1)
            store(total, f32(0.0), 0)
            encode = Encoder(thresholds, bits)
            with T.unroll(0, LANES) as j:
                code = encode(_unit(source.value(token, group * LANES + j), norm[token]))
                accumulate(total, encode.x[0] * centroids[code], 0)
            store(parts, total[0], group, token)
        with self._phase(page) as token:
            scale = T.Bind(norm[token] / _sum_rows(parts, groups, token))
            finite = tirx.Select(scale < f32(_HALF_OVERFLOW), scale, f32(float("nan")))
            value = tirx.Select(tirx.EQ(norm[token], f32(0.0)), f32(0.0), finite)
            store(self.state[f"{self.side}_scale"], value, *self.at, token)

    def _codes(self, source: _Page, norm: Buffer, thresholds: Buffer, bits: int) -> None:
        units = self.state[f"{self.side}_codes"]
        along, lanes = self.layout.head_dim, self.layout.page
        if self.side == "v":
            along, lanes = lanes, along
        with self._phase(along // LANES * lanes) as item:
            group, lane = divide(item, lanes)
            codes = local("codes", LANES, "uint32")
            encode = Encoder(thresholds, bits)
            with T.unroll(0, LANES) as j:
                place = T.Bind(group * LANES + j)
                token, d = (lane, place) if self.side == "k" else (place, lane)
                store(codes, encode(_unit(source.value(token, d), norm[token])), j)

            def put(shift: int, width: int, i: int, word: Expr) -> None:
                offset = plane_offset(along * lanes, shift) + (group * width + i) * lanes + lane
                store(units, word, *self.at, offset)

            store_group(codes, put, bits)


def _unit(x: Expr, norm: Expr) -> Expr:
    return tirx.Select(norm > f32(0.0), x / norm, f32(0.0))


def _sum_rows(parts: Buffer, rows: int, column: Expr) -> Expr:
    return sum((parts[row, column] for row in range(1, rows)), parts[0, column])


def _emit_writes(cache: Cache, k: Buffer, v: Buffer, config: CudaConfig) -> None:
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

            def write(name: str, fresh: Buffer, *indices: Expr) -> None:
                store(state[name], f32(fresh[b, head, i64(row), d]), b, head, *indices)

            if layout.sinks:
                with when(tirx.all(row < new, t < 0)):
                    write("sink_k", k, d, at)
                    write("sink_v", v, at, d)
            with when(tirx.all(row < new, t >= 0, t >= kept)):
                ring = T.Bind(cache.ring_page(tirx.floordiv(t, i32(page))))
                offset = T.Bind(tirx.floormod(t, i32(page)))
                write("tail_k", k, ring, d, offset)
                write("tail_v", v, ring, offset, d)
