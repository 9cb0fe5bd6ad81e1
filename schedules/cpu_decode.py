"""Decode attention on the CPU: one query token per sequence over sinks, coded pages and tail.

Each (sequence, KV head) is cut into `config.splits` tasks of whole pages. A task reads and decodes every code once for
the whole GQA group and keeps an online softmax; a second loop merges the tasks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import e, log2

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc

from tqc.codec.layout import CacheLayout, code_bits, planes
from tqc.codec.lloyd_max import codebook
from tqc.schedules.cpu_cache import Cache, argument
from tqc.schedules.cpu_codes import UNIT, CodedRows, Table
from tqc.schedules.cpu_config import CpuConfig
from tqc.schedules.cpu_products import sum_products, tile
from tqc.schedules.cpu_simd import Simd, Variable, f32, i64, let, maximum, minimum, parallel_if, scratch

CACHE_LINE = 64
"""Bytes."""

SERIAL_VALUES = 32768
"""Partial sums that one thread merges faster than it wakes another."""

NOTHING = -1e30
"""The score of a token that a query does not see, and the maximum of no scores."""


def make_decode(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    config: CpuConfig,
) -> PrimFunc:
    """decode(q [B, H, 1, D], length [B], new_len [B], page_table [B, NP], *state, y [B, H, 1, D]), float32.

    The cache already holds `length + new_len` tokens. Outputs of sequences with `new_len` 0 are zeros. `window` > 0
    limits the query to the last `window` positions; `softcap` c > 0 turns a score s into c·tanh(s/c). `sink_logits`:
    behind q comes an argument [H] float32, the logit of a token without a value that each query head sees.
    """
    layout.check_window(window)
    return _Decode(layout, softmax_scale, softcap, window, sink_logits, config).build()


def sink_score(logits: Buffer, head: Expr) -> Expr:
    """The sink logit of a query head in base 2, as scores are; never below that of no scores at all."""
    score = let(logits[head] * f32(log2(e)))
    return let(tirx.Select(score < f32(NOTHING), f32(NOTHING), score))  # NaN stays


class _Decode:
    def __init__(
        self, layout: CacheLayout, scale: float, softcap: float, window: int, sink_logits: bool, config: CpuConfig
    ) -> None:
        self.layout, self.softcap, self.window, self.config = layout, softcap, window, config
        self.has_sink_logits = sink_logits
        self.query_scale = scale * log2(e) * (2 / softcap if softcap else 1)
        self.simd = Simd(config)
        tiles = -(-layout.group // config.accumulators)
        self.tile_rows = -(-layout.group // tiles)
        self.rows = self.tile_rows * tiles

    def build(self) -> PrimFunc:
        layout, splits = self.layout, self.config.splits
        heads, dim = layout.kv_heads, layout.head_dim
        with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
            T.func_name("decode")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            batch = tirx.Var("batch", "int64")
            self.q = argument("q", (batch, layout.query_heads, 1, dim), "float32")
            if self.has_sink_logits:
                self.sink_logits = argument("sink_logits", (layout.query_heads,), "float32")
            self.cache = Cache.declare(layout, batch)
            self.y = argument("y", (batch, layout.query_heads, 1, dim), "float32")
            tasks = batch * (heads * splits)
            self.sums = scratch((tasks, self.rows, dim))
            self.peak = scratch((tasks, self.rows))
            self.mass = scratch((tasks, self.rows, self.simd.lanes))
            with T.parallel(tasks) as task:
                self._task(task)
            outputs = batch * layout.query_heads
            parallel_if(outputs * splits * dim > SERIAL_VALUES, outputs, self._merge)
        return builder.get()

    def _task(self, task: Expr) -> None:
        layout, cache, splits = self.layout, self.cache, self.config.splits
        b = let(tirx.floordiv(task, i64(layout.kv_heads * splits)))
        h = let(tirx.floormod(tirx.floordiv(task, i64(splits)), i64(layout.kv_heads)))
        split = let(tirx.floormod(task, i64(splits)))
        self.task = task
        self._prepare(b, h)
        new = cache.tokens(cache.new_len, b)
        total = let(tirx.Select(new > 0, cache.tokens(cache.length, b) + new, i64(0)))
        after = cache.after_sinks(total)
        coded_pages = cache.pages(cache.coded(total))
        pages = cache.pages(after)
        first_seen = let(maximum(total - self.window, i64(0)) if self.window else i64(0))
        seen_after = cache.after_sinks(first_seen)
        first_page = let(minimum(tirx.floordiv(seen_after, i64(layout.page)), pages))
        # The sinks are one more block after the last page.
        sinks_seen = (
            tirx.Select(tirx.And(total > 0, first_seen < layout.sinks), i64(1), i64(0)) if layout.sinks else i64(0)
        )
        blocks = let(pages - first_page + sinks_seen)
        begin = let(first_page + tirx.floordiv(blocks * split, i64(splits)))
        end = let(first_page + tirx.floordiv(blocks * (split + 1), i64(splits)))

        tables = self._tables()
        with T.serial(begin, maximum(begin, minimum(end, coded_pages))) as page:
            at = (*cache.place(b, page), h)
            low, high = self._seen(page, seen_after, after)
            self._coded_scores(tables[0], at)
            self._softmax(
                layout.page, low, high, at if code_bits(layout.k) else None, at if code_bits(layout.v) else None
            )
            following = cache.place(b, minimum(page + 1, coded_pages - 1))
            self._coded_values(tables[1], at, low, high, (*following, h))
        tail_begin = let(maximum(begin, coded_pages))
        with T.serial(tail_begin, maximum(tail_begin, minimum(end, pages))) as page:
            at = (b, h, cache.ring_page(page))
            low, high = self._seen(page, seen_after, after)
            self._exact(cache.state["tail_k"], cache.state["tail_v"], at, layout.page, low, high)
        if layout.sinks:
            with T.If(end > maximum(pages, begin)), T.Then():
                low, high = let(minimum(first_seen, i64(layout.sinks))), let(minimum(total, i64(layout.sinks)))
                self._exact(cache.state["sink_k"], cache.state["sink_v"], (b, h), layout.sink_slots, low, high)

    def _prepare(self, b: Expr, h: Expr) -> None:
        """Scratch of one task: scaled queries, scores, probabilities times V's scale; sums start at zero."""
        simd, layout, task = self.simd, self.layout, self.task
        widest = max(layout.page, layout.sink_slots)
        self.queries = scratch((self.rows, layout.head_dim))
        self.scores = scratch((self.rows, widest))
        self.weights = scratch((self.rows, widest))
        self.rescale = scratch((self.rows,))
        for row in range(self.rows):
            with T.serial(i64(layout.head_dim // simd.lanes)) as c:
                lane = c * simd.lanes
                if row < layout.group:
                    query = simd.load(self.q, b, h * layout.group + row, i64(0), lane) * simd.splat(self.query_scale)
                else:
                    query = simd.splat(0.0)
                simd.store(self.queries, query, i64(row), lane)
                simd.store(self.sums, simd.splat(0.0), task, i64(row), lane)
            T.buffer_store(self.peak, f32(NOTHING), [task, i64(row)])
            simd.store(self.mass, simd.splat(0.0), task, i64(row), 0)

    def _tables(self) -> list[Table | None]:
        return [
            Table(self.simd, codebook(code_bits(scheme), self.layout.head_dim).centroids) if code_bits(scheme) else None
            for scheme in (self.layout.k, self.layout.v)
        ]

    def _seen(self, page: Expr, first: Expr, after: Expr) -> tuple[Expr, Expr]:
        """The tokens low ≤ i < high of `page` that exist and are seen."""
        low = let(maximum(first - page * self.layout.page, i64(0)))
        return low, let(minimum(after - page * self.layout.page, i64(self.layout.page)))

    @contextmanager
    def _row_tiles(self) -> Iterator[Expr]:
        with T.serial(i64(self.rows // self.tile_rows)) as number:
            yield let(number * self.tile_rows)

    def _coded_scores(self, table: Table | None, at: tuple[Expr, ...]) -> None:
        layout, buffer = self.layout, self.cache.state["k_codes"]
        if table is None:
            self._score(layout.page, lambda d, lane: self.simd.load(buffer, *at, d * layout.page + lane), at)
            return
        codes = CodedRows(self.simd, code_bits(layout.k), layout.page, layout.head_dim)

        def values(lanes):
            def rows_of(step):
                columns = [codes.index(buffer, *at, step=step, lane=lane) for lane in lanes]
                for row, indices in enumerate(zip(*columns, strict=True)):
                    yield let(step * codes.step + row), [table[index] for index in indices]

            return rows_of

        self._score_tiles(layout.page, values, layout.head_dim // codes.step, at)

    def _score(self, width: int, load, ahead: tuple[Expr, ...] | None = None) -> None:
        def values(lanes):
            return lambda d: [(d, [let(load(d, lane)) for lane in lanes])]

        self._score_tiles(width, values, self.layout.head_dim, ahead)

    def _fetch(self, side: str, at: tuple[Expr, ...], part: Expr, parts: int, steps: int):
        """What each step of one product calls to have page `at` of side `side` in the cache for the next product."""
        buffer = self.cache.state[f"{side}_codes"]
        line = CACHE_LINE * 8 // (UNIT if code_bits(getattr(self.layout, side)) else int(buffer.dtype[-2:]))
        lines = -(-self.layout.form(side).units(self.layout.page) // line)
        each = -(-lines // (parts * steps))

        def fetch(step: Expr) -> None:
            for i in range(each):
                self.simd.prefetch(buffer, *at, ((part * steps + step) * each + i) * line)

        return fetch

    def _score_tiles(self, width: int, values, steps: int, ahead: tuple[Expr, ...] | None = None) -> None:
        simd = self.simd
        blocks = tile(width // simd.lanes, self.config.accumulators // self.tile_rows)
        parts = width // simd.lanes // blocks
        with self._row_tiles() as row, T.serial(i64(parts)) as part:
            start = let(part * (blocks * simd.lanes))
            sum_products(
                simd,
                rows=self.tile_rows,
                start=lambda r, c: simd.splat(0.0),
                coefficient=lambda r, d: self.queries[row + r, d],
                values=values([start + c * simd.lanes for c in range(blocks)]),
                steps=(i64(0), i64(steps)),
                each_step=self._fetch("v", ahead, part, parts, steps) if ahead else None,
                blocks=blocks,
                finish=lambda r, c, total: simd.store(self.scores, total, row + r, start + c * simd.lanes),
            )

    def _softmax(self, width: int, low: Expr, high: Expr, k_scale, v_scale) -> None:
        """Scores of `width` tokens → weights; updates maxima, masses and the factor of older sums.

        `k_scale` and `v_scale` are the indices of the page's scales, None for exact values.
        """
        simd, layout = self.simd, self.layout
        parts = range(width // simd.lanes)
        seen, k_factor, v_factor = [], [], []
        for c in parts:
            lane = simd.lane_numbers(i64(c * simd.lanes))
            seen.append(tirx.And(lane >= simd.splat(low), lane < simd.splat(high)))
            if k_scale:
                k_factor.append(let(simd.load(self.cache.state["k_scale"], *k_scale, c * simd.lanes)))
            if v_scale:
                v_factor.append(let(simd.load(self.cache.state["v_scale"], *v_scale, c * simd.lanes)))
        for row in range(layout.group):
            r = i64(row)
            largest = None
            for c in parts:
                score = let(simd.load(self.scores, r, c * simd.lanes))
                if k_scale:
                    score = let(score * k_factor[c])
                if self.softcap:
                    score = simd.soft_cap(score, self.softcap * log2(e))
                score = let(tirx.Select(seen[c], score, simd.splat(NOTHING)))
                simd.store(self.scores, score, r, c * simd.lanes)
                largest = score if largest is None else let(maximum(largest, score))
            old = let(self.peak[self.task, r])
            new = let(maximum(simd.largest(largest), old))
            factor = simd.exp2(simd.splat(old - new))
            mass = simd.load(self.mass, self.task, r, 0) * factor
            for c in parts:
                weight = simd.exp2(simd.load(self.scores, r, c * simd.lanes) - simd.splat(new))
                mass = let(mass + weight)
                if v_scale:
                    weight = weight * v_factor[c]
                simd.store(self.weights, tirx.Select(seen[c], weight, simd.splat(0.0)), r, c * simd.lanes)
            simd.store(self.mass, mass, self.task, r, 0)
            T.buffer_store(self.peak, new, [self.task, r])
            T.buffer_store(self.rescale, tirx.Shuffle([factor], [0]), [r])

    def _coded_values(self, table: Table | None, at: tuple[Expr, ...], low: Expr, high: Expr, ahead) -> None:
        layout, buffer = self.layout, self.cache.state["v_codes"]
        if table is None:
            self._sum(low, high, lambda t, lane: self.simd.load(buffer, *at, t * layout.head_dim + lane), ahead)
            return
        codes = CodedRows(self.simd, code_bits(layout.v), layout.head_dim, layout.page)

        def values(lanes):
            def rows_of(step):
                columns = [codes.index(buffer, *at, step=step, lane=lane) for lane in lanes]
                for row, indices in enumerate(zip(*columns, strict=True)):
                    yield let(step * codes.step + row), [table[index] for index in indices]

            return rows_of

        self._sum_tiles(values, (i64(0), i64(layout.page // codes.step)), ahead)

    def _sum(self, low: Expr, high: Expr, load, ahead: tuple[Expr, ...] | None = None) -> None:
        def values(lanes):
            return lambda t: [(t, [let(load(t, lane)) for lane in lanes])]

        self._sum_tiles(values, (low, high), ahead)

    def _sum_tiles(self, values, steps: tuple[Expr, Expr], ahead: tuple[Expr, ...] | None = None) -> None:
        simd, vectors = self.simd, self.layout.head_dim // self.simd.lanes
        blocks = tile(vectors, self.config.accumulators // self.tile_rows)
        parts = vectors // blocks
        step_rows = UNIT // planes(code_bits(self.layout.v))[-1][0] if code_bits(self.layout.v) else 1
        with self._row_tiles() as row, T.serial(i64(parts)) as part:
            start = let(part * (blocks * simd.lanes))
            sum_products(
                simd,
                rows=self.tile_rows,
                start=lambda r, c: (
                    simd.load(self.sums, self.task, row + r, start + c * simd.lanes) * simd.splat(self.rescale[row + r])
                ),
                coefficient=lambda r, t: self.weights[row + r, t],
                values=values([start + c * simd.lanes for c in range(blocks)]),
                steps=steps,
                each_step=self._fetch("k", ahead, part, parts, self.layout.page // step_rows) if ahead else None,
                blocks=blocks,
                finish=lambda r, c, total: simd.store(self.sums, total, self.task, row + r, start + c * simd.lanes),
            )

    def _exact(self, keys: Buffer, vectors: Buffer, at: tuple[Expr, ...], width: int, low: Expr, high: Expr) -> None:
        self._score(width, lambda d, lane: self.simd.load(keys, *at, d, lane))
        self._softmax(width, low, high, None, None)
        self._sum(low, high, lambda t, lane: self.simd.load(vectors, *at, t, lane))

    def _merge(self, head: Expr) -> None:
        """y of one query head from the sums of its tasks, each scaled to the common maximum."""
        simd, layout, splits = self.simd, self.layout, self.config.splits
        b = let(tirx.floordiv(head, i64(layout.query_heads)))
        hq = let(tirx.floormod(head, i64(layout.query_heads)))
        first = let((b * layout.kv_heads + tirx.floordiv(hq, i64(layout.group))) * splits)
        row = let(tirx.floormod(hq, i64(layout.group)))
        sink = let(sink_score(self.sink_logits, hq)) if self.has_sink_logits else f32(NOTHING)
        peak = Variable(1, sink)
        with T.serial(i64(splits)) as s:
            peak.set(maximum(self.peak[first + s, row], peak.value))
        factors = scratch((splits,))
        mass = simd.variable(0.0)
        with T.serial(i64(splits)) as s:
            factor = simd.exp2(simd.splat(self.peak[first + s, row] - peak.value))
            T.buffer_store(factors, tirx.Shuffle([factor], [0]), [s])
            mass.set(mass.value + simd.load(self.mass, first + s, row, 0) * factor)
        total = let(simd.total(let(mass.value)))
        if self.has_sink_logits:
            total = let(total + tirx.Shuffle([simd.exp2(simd.splat(sink - peak.value))], [0]))
        inverse = let(tirx.Select(total == f32(0), f32(0), f32(1) / total))
        with T.serial(i64(layout.head_dim // simd.lanes)) as c:
            out = simd.variable(0.0)
            with T.serial(i64(splits)) as s:
                part = simd.load(self.sums, first + s, row, c * simd.lanes)
                out.set(out.value + part * simd.splat(factors[s]))
            simd.store(self.y, out.value * simd.splat(inverse), b, hq, i64(0), c * simd.lanes)
