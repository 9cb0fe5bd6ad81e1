"""Prefill attention on the CPU: many queries over the cache as it was before the call, and over the chunk itself.

A task is one tile of query rows (queries × GQA group) of one KV head. Each block of `page` tokens, wherever it lies, is
brought into scratch as float32 (K [dim, token], V [token, dim]); from there on all blocks are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from math import e, log2

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_bands import CodedBand, finite_scales, unstored
from tqc.schedules.cpu_cache import Cache, argument
from tqc.schedules.cpu_config import CpuConfig
from tqc.schedules.cpu_merge import NOTHING, sink_score
from tqc.schedules.cpu_polar import PolarDecoder
from tqc.schedules.cpu_products import sum_products, tile
from tqc.schedules.cpu_simd import Simd, Variable, f32, i64, let, maximum, minimum, scratch


def make_prefill(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    config: CpuConfig,
) -> PrimFunc:
    """prefill(q [B, H, S, Rk], k, v [B, Hk, S, D], length, new_len [B], page_table [B, NP], *state, y [B, H, S, Rv]).

    The cache holds `length` tokens; query i stands at position length + i and also sees the chunk's tokens j ≤ i.
    Rows from `new_len[b]` on give zeros. `window`, `softcap` and `sink_logits` are those of `make_decode`; the argument
    with the logits [H] comes behind v.
    """
    layout.check_window(window)
    return _Prefill(layout, softmax_scale, softcap, window, sink_logits, config).build()


class _Prefill:
    def __init__(
        self, layout: CacheLayout, scale: float, softcap: float, window: int, sink_logits: bool, config: CpuConfig
    ) -> None:
        self.layout, self.softcap, self.window, self.config = layout, softcap, window, config
        self.has_sink_logits = sink_logits
        self.query_scale = scale * log2(e) * (2 / softcap if softcap else 1)
        self.k_form, self.v_form = layout.form("k"), layout.form("v")
        self.simd = Simd(config)
        self.queries_per_task = max(1, config.prefill_rows // layout.group)
        self.rows = -(-self.queries_per_task * layout.group // config.tile_rows) * config.tile_rows
        self.sink_blocks = -(-layout.sink_slots // layout.page)

    def build(self) -> PrimFunc:
        layout = self.layout
        with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
            T.func_name("prefill")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            batch, chunk = tirx.Var("batch", "int64"), tirx.Var("chunk", "int64")
            heads = (batch, layout.query_heads, chunk)
            fresh = (batch, layout.kv_heads, chunk, layout.head_dim)
            self.q = argument("q", (*heads, self.k_form.rows), "float32")
            self.k, self.v = argument("k", fresh, "float32"), argument("v", fresh, "float32")
            if self.has_sink_logits:
                self.sink_logits = argument("sink_logits", (layout.query_heads,), "float32")
            self.cache = Cache.declare(layout, batch)
            self.y = argument("y", (*heads, self.v_form.rows), "float32")
            tiles = let(tirx.floordiv(chunk + (self.queries_per_task - 1), i64(self.queries_per_task)))
            with T.parallel(batch * layout.kv_heads * tiles) as task:
                b = let(tirx.floordiv(task, layout.kv_heads * tiles))
                h = let(tirx.floormod(tirx.floordiv(task, tiles), i64(layout.kv_heads)))
                turn = let(tirx.floormod(task, tiles))
                # Later tiles see more tokens: take them from both ends so that neighbours cost the same together.
                half = let(tirx.floordiv(turn, i64(2)))
                number = let(tirx.Select(tirx.floormod(turn, i64(2)) == 0, half, tiles - 1 - half))
                self._task(b, h, let(number * self.queries_per_task), chunk)
        return builder.get()

    def _task(self, b: Expr, h: Expr, first_query: Expr, chunk: Expr) -> None:
        layout, cache, page = self.layout, self.cache, self.layout.page
        length, new = cache.tokens(cache.length, b), cache.tokens(cache.new_len, b)
        last_query = let(minimum(first_query + self.queries_per_task, new))
        active = let(maximum(last_query - first_query, i64(0)))
        position = let(length + first_query)
        row_count = let(active * layout.group)
        self._prepare(b, h, first_query, active)

        first_seen = let(maximum(position - (self.window - 1), i64(0)) if self.window else i64(0))
        seen_after = cache.after_sinks(minimum(first_seen, length))
        coded_pages = cache.pages(cache.coded(length))
        pages = cache.pages(cache.after_sinks(length))
        first_page = let(minimum(tirx.floordiv(seen_after, i64(page)), pages))
        sink_blocks = let(tirx.Select(tirx.And(length > 0, first_seen < layout.sinks), i64(self.sink_blocks), i64(0)))
        # Blocks in order: pages first_page … pages - 1, the sinks, blocks of the chunk.
        fresh_start = let(pages + sink_blocks)
        first_fresh = let(tirx.floordiv(maximum(first_seen - length, i64(0)), i64(page)))
        begin = let(tirx.Select(active > 0, first_page, fresh_start))
        end = let(fresh_start + tirx.Select(active > 0, cache.pages(last_query) - first_fresh, i64(0)))
        self._open_pages()
        start, count, first_row = (Variable(1, i64(0), "int64") for _ in range(3))

        with T.serial(begin, maximum(begin, end)) as block:
            first_row.set(i64(0))
            in_codes = block < coded_pages
            with T.If(block < pages):
                with T.Then():
                    start.set(block * page + layout.sinks)
                    count.set(minimum(length - start.value, i64(page)))
                    with T.If(in_codes):
                        with T.Then():
                            self._load_coded((*cache.place(b, block), h), count.value)
                        with T.Else():
                            at = (b, h, cache.ring_page(block))
                            self._load_exact("tail", at, i64(0), i64(page), count.value)
                with T.Else(), T.If(block < fresh_start):
                    with T.Then():
                        start.set((block - pages) * page)
                        held = minimum(length, i64(layout.sinks)) - start.value
                        count.set(maximum(minimum(held, i64(page)), i64(0)))
                        if layout.sinks:
                            lanes = let(minimum(layout.sink_slots - start.value, i64(page)))
                            self._load_exact("sink", (b, h), start.value, lanes, count.value)
                    with T.Else():
                        chunk_start = let((block - fresh_start + first_fresh) * page)
                        start.set(length + chunk_start)
                        count.set(minimum(new - chunk_start, i64(page)))
                        # Rows before the block's first token see none of it.
                        unseen = maximum(chunk_start - first_query, i64(0)) * layout.group
                        first_row.set(tirx.floordiv(unseen, i64(self.config.tile_rows)) * self.config.tile_rows)
                        self._load_fresh(b, h, chunk_start, count.value)
            self._attend(first_row.value, row_count, position, start.value, count.value, in_codes)
        self._finish(b, h, first_query, active, chunk)

    def _prepare(self, b: Expr, h: Expr, first_query: Expr, active: Expr) -> None:
        simd, layout = self.simd, self.layout
        page = layout.page
        self.queries, self.sums = scratch((self.rows, self.k_form.rows)), scratch((self.rows, self.v_form.rows))
        self.scores, self.rescale = scratch((self.rows, page)), scratch((self.rows,))
        self.peak, self.mass = scratch((self.rows,)), scratch((self.rows, simd.lanes))
        self.keys, self.values = scratch((self.k_form.rows, page)), scratch((page, self.v_form.rows))
        self.poison, self.factors = scratch((page,)), scratch((max(1, self.v_form.scales), page))
        with T.If(active > 0), T.Then(), T.serial(i64(self.rows)) as row:
            # Rows that fill up the last register tile repeat the last query; nobody reads them.
            query = let(first_query + minimum(tirx.floordiv(row, i64(layout.group)), active - 1))
            head = let(h * layout.group + tirx.floormod(row, i64(layout.group)))
            with T.serial(i64(self.k_form.rows // simd.lanes)) as c:
                lane = c * simd.lanes
                scaled = simd.load(self.q, b, head, query, lane) * simd.splat(self.query_scale)
                simd.store(self.queries, scaled, row, lane)
            with T.serial(i64(self.v_form.rows // simd.lanes)) as c:
                simd.store(self.sums, simd.splat(0.0), row, c * simd.lanes)
            if not self.has_sink_logits:
                T.buffer_store(self.peak, f32(NOTHING), [row])
                simd.store(self.mass, simd.splat(0.0), row, 0)
            else:  # a token already seen: its score is the peak, so its weight is 1, in one lane
                T.buffer_store(self.peak, sink_score(self.sink_logits, head), [row])
                one = simd.lane_numbers(i64(0)) < simd.splat(1, "int64")
                simd.store(self.mass, tirx.Select(one, simd.splat(1.0), simd.splat(0.0)), row, 0)

    def _open_pages(self) -> None:
        """What reading coded pages needs: tables of codes."""
        state, self.bands, self.polar = self.cache.state, {}, {}
        for side, form in (("k", self.k_form), ("v", self.v_form)):
            codes = state[f"{side}_codes"]
            self.bands[side] = [CodedBand(self.simd, self.layout, side, band, codes) for band in form.coded_bands]
            if form.kind == "polar":
                self.polar[side] = PolarDecoder(self.simd, self.layout, side, state)

    def _load_coded(self, at: tuple[Expr, ...], count: Expr) -> None:
        simd, layout, state = self.simd, self.layout, self.cache.state
        dim, page = layout.head_dim, layout.page
        if self.k_form.exact:
            self._copy_keys(lambda d, lane: simd.load(state["k_codes"], *at, d * page + lane), i64(page))
        elif "k" in self.polar:
            self.polar["k"].decode(at, self.keys)
        else:
            self._load_keys(at)
        if self.v_form.exact:
            self._copy_values(lambda t, lane: simd.load(state["v_codes"], *at, t * dim + lane), count)
        else:
            self._load_values(at)

    def _load_keys(self, at: tuple[Expr, ...]) -> None:
        simd, page, scales = self.simd, self.layout.page, self.cache.state["k_scale"]
        with T.serial(i64(page // simd.lanes)) as c:
            lane = let(c * simd.lanes)
            for coded in self.bands["k"]:
                scale = let(simd.load(scales, *at, coded.band.scale * page + lane))
                rows_of = coded.values(at, [lane])
                with T.serial(i64(coded.steps)) as step:
                    for row, (value,) in rows_of(step):
                        simd.store(self.keys, value * scale, coded.band.start + row, lane)
            for first, end in unstored(self.k_form):
                with T.serial(i64(first), i64(end)) as row:
                    simd.store(self.keys, simd.splat(0.0), row, lane)

    def _load_values(self, at: tuple[Expr, ...]) -> None:
        simd, page, scales = self.simd, self.layout.page, self.cache.state["v_scale"]
        with T.serial(i64(page // simd.lanes)) as c:
            lane = let(c * simd.lanes)
            finite = finite_scales(simd, self.v_form, page, scales, at, lane)
            simd.store(self.poison, tirx.Select(finite, simd.splat(0.0), simd.splat(float("nan"))), lane)
            for number in range(self.v_form.scales if self.bands["v"] else 0):
                scale = let(simd.load(scales, *at, number * page + lane))
                scale = tirx.Select(simd.finite(scale), scale, simd.splat(0.0))
                simd.store(self.factors, scale, i64(number), lane)
        if "v" in self.polar:
            self.polar["v"].decode(at, self.values)
        for coded in self.bands["v"]:
            band = coded.band
            with T.serial(i64(band.rows // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                rows_of = coded.values(at, [lane])
                with T.serial(i64(coded.steps)) as step:
                    for token, (value,) in rows_of(step):
                        factor = simd.splat(self.factors[i64(band.scale), token])
                        simd.store(self.values, value * factor, token, band.start + lane)
        for first, end in unstored(self.v_form):
            with T.serial(i64(page)) as token, T.serial(i64((end - first) // simd.lanes)) as c:
                simd.store(self.values, simd.splat(0.0), token, first + c * simd.lanes)

    def _load_exact(self, region: str, at: tuple[Expr, ...], first: Expr, lanes: Expr, count: Expr) -> None:
        keys, vectors = self.cache.state[f"{region}_k"], self.cache.state[f"{region}_v"]
        self._copy_keys(lambda d, lane: self.simd.load(keys, *at, d, let(first + lane)), lanes)
        self._copy_values(lambda t, lane: self.simd.load(vectors, *at, let(first + t), lane), count)

    def _load_fresh(self, b: Expr, h: Expr, first: Expr, count: Expr) -> None:
        with T.serial(i64(0), count) as t, T.serial(i64(self.layout.head_dim)) as d:
            T.buffer_store(self.keys, self.k[b, h, first + t, d], [d, t])
        self._copy_values(lambda t, lane: self.simd.load(self.v, b, h, let(first + t), lane), count)

    def _copy_keys(self, load, lanes: Expr) -> None:
        with T.serial(i64(self.layout.head_dim)) as d:
            with T.serial(tirx.floordiv(lanes, i64(self.simd.lanes))) as c:
                lane = let(c * self.simd.lanes)
                self.simd.store(self.keys, load(d, lane), d, lane)

    def _copy_values(self, load, count: Expr) -> None:
        """Values of `count` tokens; one that is not finite becomes 0 and poisons the scores of those who see it.

        A probability 0 times NaN would reach queries that do not see the token.
        """
        simd = self.simd
        with T.serial(i64(0), count) as t:
            defect = simd.variable(0.0)
            with T.serial(i64(self.layout.head_dim // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                value = let(load(t, lane))
                finite = simd.finite(value)
                defect.set(tirx.Select(finite, defect.value, simd.splat(float("nan"))))
                simd.store(self.values, tirx.Select(finite, value, simd.splat(0.0)), t, lane)
            T.buffer_store(self.poison, simd.total(defect.value), [t])

    def _attend(
        self, first_row: Expr, row_count: Expr, position: Expr, start: Expr, count: Expr, in_codes: Expr
    ) -> None:
        """Adds the block in scratch, `count` tokens from position `start` on, to the rows' sums."""
        layout, tile_rows = self.layout, self.config.tile_rows
        first_tile = let(tirx.floordiv(first_row, i64(tile_rows)))
        tiles = let(maximum(tirx.floordiv(row_count + (tile_rows - 1), i64(tile_rows)), first_tile))
        dim = layout.head_dim
        key_rows = (i64(0), i64(dim))
        if self.k_form.sketch_rows:
            first = min(band.start for band in self.k_form.coded_bands)
            key_rows = (
                let(tirx.Select(in_codes, i64(first), i64(0))),
                let(tirx.Select(in_codes, i64(self.k_form.rows), i64(dim))),
            )

        def rescaled(row, lane):
            return self.simd.load(self.sums, row, lane) * self.simd.splat(self.rescale[row])

        zero = lambda row, lane: self.simd.splat(0.0)  # noqa: E731
        rows = (first_tile, tiles)
        self._product(rows, (0, layout.page), zero, self.queries, self.keys, key_rows, self.scores)
        with T.serial(first_tile * tile_rows, maximum(row_count, first_tile * tile_rows)) as row:
            self._softmax(row, let(position + tirx.floordiv(row, i64(layout.group)) - start), count)
        tokens = (i64(0), count)
        self._product(rows, (0, dim), rescaled, self.scores, self.values, tokens, self.sums)
        if self.v_form.sketch_rows:
            end = let(tirx.Select(in_codes, count, i64(0)))  # exact tokens add nothing to sums of sketches
            lanes = (dim, self.v_form.rows)
            self._product(rows, lanes, rescaled, self.scores, self.values, (i64(0), end), self.sums)

    def _product(
        self,
        tiles: tuple[Expr, Expr],
        lanes: tuple[int, int],
        start: Callable[[Expr, Expr], Expr],
        coefficients: Buffer,
        source: Buffer,
        steps: tuple[Expr, Expr],
        result: Buffer,
    ) -> None:
        """result[row, lane] = start + Σ coefficients[row, i] · source[i, lane], i and lane from first to end."""
        simd, tile_rows = self.simd, self.config.tile_rows
        vectors = (lanes[1] - lanes[0]) // simd.lanes
        blocks = tile(vectors, self.config.tile_vectors)
        with T.serial(*tiles) as number, T.serial(i64(vectors // blocks)) as part:
            row, left = let(number * tile_rows), let(lanes[0] + part * (blocks * simd.lanes))
            sum_products(
                simd,
                rows=tile_rows,
                start=lambda r, c: start(row + r, left + c * simd.lanes),
                coefficient=lambda r, i: coefficients[row + r, i],
                values=lambda i: [(i, [let(simd.load(source, i, left + c * simd.lanes)) for c in range(blocks)])],
                steps=steps,
                blocks=blocks,
                finish=lambda r, c, total: simd.store(result, total, row + r, left + c * simd.lanes),
            )

    def _softmax(self, row: Expr, query: Expr, count: Expr) -> None:
        """Scores of one row → weights in place; `query` is its position counted from the block's first token."""
        simd = self.simd
        high = let(minimum(count, query + 1))
        low = let(query - self.window) if self.window else i64(-1)
        parts = range(self.layout.page // simd.lanes)
        seen = []
        for c in parts:
            lane = simd.lane_numbers(i64(c * simd.lanes))
            inside = lane < simd.splat(high)
            seen.append(tirx.And(inside, lane > simd.splat(low)) if self.window else inside)
        largest = None
        for c in parts:
            score = let(simd.load(self.scores, row, c * simd.lanes))
            if self.softcap:
                score = simd.soft_cap(score, self.softcap * log2(e))
            score = let(tirx.Select(seen[c], score + simd.load(self.poison, c * simd.lanes), simd.splat(NOTHING)))
            simd.store(self.scores, score, row, c * simd.lanes)
            largest = score if largest is None else let(maximum(largest, score))
        old = let(self.peak[row])
        new = let(maximum(simd.largest(largest), old))
        factor = simd.exp2(simd.splat(old - new))
        mass = simd.load(self.mass, row, 0) * factor
        for c in parts:
            weight = simd.exp2(simd.load(self.scores, row, c * simd.lanes) - simd.splat(new))
            weight = let(tirx.Select(seen[c], weight, simd.splat(0.0)))
            mass = let(mass + weight)
            simd.store(self.scores, weight, row, c * simd.lanes)
        simd.store(self.mass, mass, row, 0)
        T.buffer_store(self.peak, new, [row])
        T.buffer_store(self.rescale, tirx.Shuffle([factor], [0]), [row])

    def _finish(self, b: Expr, h: Expr, first_query: Expr, active: Expr, chunk: Expr) -> None:
        """Writes the task's outputs, zeros for queries that are padding."""
        simd, layout = self.simd, self.layout
        queries = let(minimum(chunk - first_query, i64(self.queries_per_task)))
        with T.serial(i64(0), queries) as i, T.serial(i64(layout.group)) as g:
            row, head = let(i * layout.group + g), let(h * layout.group + g)
            inverse = Variable(1, f32(0))
            with T.If(i < active), T.Then():
                inverse.set(f32(1) / simd.total(let(simd.load(self.mass, row, 0))))
            with T.serial(i64(self.v_form.rows // simd.lanes)) as c:
                lane = let(c * simd.lanes)
                out = tirx.Select(
                    i < active, simd.load(self.sums, row, lane) * simd.splat(inverse.value), simd.splat(0.0)
                )
                simd.store(self.y, out, b, head, let(first_query + i), lane)
