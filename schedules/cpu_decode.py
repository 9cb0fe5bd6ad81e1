"""Decode attention on the CPU: one query token per sequence over sinks, coded pages and tail.

Each (sequence, KV head) is cut into `config.splits` tasks of whole pages. A task reads and decodes every code once for
the whole GQA group and keeps an online softmax; a second loop merges the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import e, log2

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer, PrimFunc

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_bands import CodedBand, finite_scales, partly_poisoned, unstored
from tqc.schedules.cpu_cache import Cache, argument
from tqc.schedules.cpu_config import CpuConfig
from tqc.schedules.cpu_merge import NOTHING, Partial, sink_score
from tqc.schedules.cpu_polar import PolarDecoder
from tqc.schedules.cpu_products import sum_products, tile
from tqc.schedules.cpu_simd import Simd, f32, i64, let, maximum, minimum, parallel_if, scratch

CACHE_LINE = 64
"""Bytes."""

SERIAL_VALUES = 32768
"""Partial sums that one thread merges faster than it wakes another."""

Fetch = Callable[[Expr], None]
"""Asks for the next part of a page; its argument counts the steps of a product."""


def make_decode(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    config: CpuConfig,
) -> PrimFunc:
    """decode(q [B, H, 1, Rk], length [B], new_len [B], page_table [B, NP], *state, y [B, H, 1, Rv]), float32.

    Rk and Rv count the rows of the coded vectors of K and V (`Form.rows`): head_dim, and those of their sketches, of
    which exact tokens have none. The cache already holds `length + new_len` tokens. Outputs of sequences with `new_len`
    0 are zeros. `window` > 0 limits the query to the last `window` positions; `softcap` c > 0 turns a score s into
    c·tanh(s/c). `sink_logits`: behind q comes an argument [H] float32, the logit of a token without a value that each
    query head sees.
    """
    layout.check_window(window)
    return _Decode(layout, softmax_scale, softcap, window, sink_logits, config).build()


class _Decode:
    def __init__(
        self, layout: CacheLayout, scale: float, softcap: float, window: int, sink_logits: bool, config: CpuConfig
    ) -> None:
        self.layout, self.softcap, self.window, self.config = layout, softcap, window, config
        self.has_sink_logits = sink_logits
        self.query_scale = scale * log2(e) * (2 / softcap if softcap else 1)
        self.k_form, self.v_form = layout.form("k"), layout.form("v")
        self.simd = Simd(config)
        tiles = -(-layout.group // config.accumulators)
        self.tile_rows = -(-layout.group // tiles)
        self.rows = self.tile_rows * tiles

    def build(self) -> PrimFunc:
        layout, splits = self.layout, self.config.splits
        with IRBuilder() as builder, T.prim_func(is_private=True, s_tir=True):
            T.func_name("decode")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            batch = tirx.Var("batch", "int64")
            self.q = argument("q", (batch, layout.query_heads, 1, self.k_form.rows), "float32")
            if self.has_sink_logits:
                self.sink_logits = argument("sink_logits", (layout.query_heads,), "float32")
            self.cache = Cache.declare(layout, batch)
            self.y = argument("y", (batch, layout.query_heads, 1, self.v_form.rows), "float32")
            tasks = batch * (layout.kv_heads * splits)
            self.partial = Partial.declare(self.simd, tasks, self.rows, self.v_form.rows)
            with T.parallel(tasks) as task:
                self._task(task)
            outputs = batch * layout.query_heads
            parallel_if(outputs * splits * self.v_form.rows > SERIAL_VALUES, outputs, self._merge)
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

        self._open_pages()
        with T.serial(begin, maximum(begin, minimum(end, coded_pages))) as page:
            at = (*cache.place(b, page), h)
            low, high = self._seen(page, seen_after, after)
            self._coded_scores(at)
            self._softmax(layout.page, low, high, at)
            following = cache.place(b, minimum(page + 1, coded_pages - 1))
            self._coded_values(at, low, high, (*following, h))
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
        """Scratch of one task: scaled queries, scores, probabilities times V's scales; sums start at zero."""
        simd, layout, task = self.simd, self.layout, self.task
        widest = max(layout.page, layout.sink_slots)
        self.queries = scratch((self.rows, self.k_form.rows))
        self.scores = scratch((self.rows, widest))
        self.weights = scratch((self.v_form.scales if self.v_form.kind == "bands" else 1, self.rows, widest))
        self.rescale = scratch((self.rows,))
        both = min(self.k_form.rows, self.v_form.rows)  # one loop: two cost the kernel of tq8 some registers, and 5 %
        for row in range(self.rows):
            for first, end in ((0, both), (both, max(self.k_form.rows, self.v_form.rows))):
                if first < end:
                    with T.serial(i64((end - first) // simd.lanes)) as c:
                        lane = first + c * simd.lanes
                        if end <= self.k_form.rows:
                            self._prepare_query(b, h, row, lane)
                        if end <= self.v_form.rows:
                            simd.store(self.partial.sums, simd.splat(0.0), task, i64(row), lane)
            T.buffer_store(self.partial.peak, f32(NOTHING), [task, i64(row)])
            simd.store(self.partial.mass, simd.splat(0.0), task, i64(row), 0)

    def _prepare_query(self, b: Expr, h: Expr, row: int, lane: Expr) -> None:
        simd, query = self.simd, self.simd.splat(0.0)
        if row < self.layout.group:
            query = simd.load(self.q, b, h * self.layout.group + row, i64(0), lane) * simd.splat(self.query_scale)
        simd.store(self.queries, query, i64(row), lane)

    def _open_pages(self) -> None:
        """What reading coded pages needs: tables of codes, scratch for a page that is decoded as a whole."""
        simd, layout, state = self.simd, self.layout, self.cache.state
        self.bands, self.polar, self.decoded = {}, {}, {}
        for side, form in (("k", self.k_form), ("v", self.v_form)):
            codes = state[f"{side}_codes"]
            self.bands[side] = [CodedBand(simd, layout, side, band, codes) for band in form.coded_bands]
            if form.kind == "polar":
                self.polar[side] = PolarDecoder(simd, layout, side, state)
                self.decoded[side] = scratch((layout.head_dim, layout.page)[:: 1 if side == "k" else -1])

    def _seen(self, page: Expr, first: Expr, after: Expr) -> tuple[Expr, Expr]:
        """The tokens low ≤ i < high of `page` that exist and are seen."""
        low = let(maximum(first - page * self.layout.page, i64(0)))
        return low, let(minimum(after - page * self.layout.page, i64(self.layout.page)))

    @contextmanager
    def _row_tiles(self) -> Iterator[Expr]:
        with T.serial(i64(self.rows // self.tile_rows)) as number:
            yield let(number * self.tile_rows)

    def _coded_scores(self, at: tuple[Expr, ...]) -> None:
        layout, simd, buffer = self.layout, self.simd, self.cache.state["k_codes"]
        parts = layout.page // simd.lanes // self._blocks(layout.page)
        bands = self.bands["k"]
        steps = sum(band.steps for band in bands) or layout.head_dim
        fetch = self._fetch("v", at, parts * steps)
        if self.k_form.exact:
            self._score(layout.page, lambda d, lane: simd.load(buffer, *at, d * layout.page + lane), fetch)
            return
        if "k" in self.polar:
            self.polar["k"].decode(at, self.decoded["k"])
            self._score(layout.page, lambda d, lane: simd.load(self.decoded["k"], d, lane), fetch)
            return
        done = 0
        for coded in bands:
            self._band_scores(coded, at, lambda step, done=done: fetch(done + step), again=done > 0)
            done += parts * coded.steps

    def _band_scores(self, coded: CodedBand, at: tuple[Expr, ...], fetch: Fetch, *, again: bool) -> None:
        """Adds (`again`) or sets the scores that one band gives: raw ones if all bands share their scale."""
        simd, band, several = self.simd, coded.band, self.k_form.scales > 1

        def start(row, lane):
            return simd.load(self.scores, row, lane) if again and not several else simd.splat(0.0)

        def finish(row, lane, total):
            if several:
                scale = simd.load(self.cache.state["k_scale"], *at, band.scale * self.layout.page + lane)
                total = total * scale + simd.load(self.scores, row, lane) if again else total * scale
            simd.store(self.scores, total, row, lane)

        def values(lanes):
            return coded.values(at, lanes)

        self._score_tiles(self.layout.page, values, coded.steps, band.start, start, finish, fetch)

    def _score(self, width: int, load, fetch: Fetch | None = None) -> None:
        """Scores of `width` exact tokens."""
        simd = self.simd

        def values(lanes):
            return lambda d: [(d, [let(load(d, lane)) for lane in lanes])]

        def finish(row, lane, total):
            simd.store(self.scores, total, row, lane)

        self._score_tiles(width, values, self.layout.head_dim, 0, lambda row, lane: simd.splat(0.0), finish, fetch)

    def _fetch(self, side: str, at: tuple[Expr, ...], steps: int) -> Fetch:
        """What each of `steps` steps of products calls to have page `at` of `side` in the cache for the next ones."""
        buffer = self.cache.state[f"{side}_codes"]
        line = CACHE_LINE * 8 // (32 if buffer.dtype == "float32" else 16)
        lines = -(-self.layout.form(side).units(self.layout.page) // line)
        each = -(-lines // steps)

        def fetch(step: Expr) -> None:
            for i in range(each):
                self.simd.prefetch(buffer, *at, (step * each + i) * line)

        return fetch

    def _blocks(self, width: int) -> int:
        """Vectors of a register tile for products of `width` lanes."""
        return tile(width // self.simd.lanes, self.config.accumulators // self.tile_rows)

    def _score_tiles(
        self, width: int, values, steps: int, first: int, start, finish, fetch: Fetch | None = None
    ) -> None:
        """Products of queries, from row `first` on, with `values`; `start` and `finish` take a row and a lane."""
        simd, blocks = self.simd, self._blocks(width)
        with self._row_tiles() as row, T.serial(i64(width // simd.lanes // blocks)) as part:
            left = let(part * (blocks * simd.lanes))
            sum_products(
                simd,
                rows=self.tile_rows,
                start=lambda r, c: start(row + r, left + c * simd.lanes),
                coefficient=lambda r, d: self.queries[row + r, first + d if first else d],
                values=values([left + c * simd.lanes for c in range(blocks)]),
                steps=(i64(0), i64(steps)),
                each_step=(lambda step: fetch(part * steps + step)) if fetch else None,
                blocks=blocks,
                finish=lambda r, c, total: finish(row + r, left + c * simd.lanes, total),
            )

    def _softmax(self, width: int, low: Expr, high: Expr, at: tuple[Expr, ...] | None = None) -> None:
        """Scores of `width` tokens → weights; updates maxima, masses and the factor of older sums.

        `at` is the place of a coded page, None for exact tokens.
        """
        simd, layout, state = self.simd, self.layout, self.cache.state
        parts = range(width // simd.lanes)
        k_scaled = at is not None and self.k_form.kind == "bands" and self.k_form.scales == 1
        scales = range(self.v_form.scales if at is not None and self.v_form.kind == "bands" else 0)
        poisoned = at is not None and self.v_form.scales > 0 and partly_poisoned(self.v_form)
        seen, k_factor, v_factors, poison = [], [], [], []
        for c in parts:
            lane = c * simd.lanes
            numbers = simd.lane_numbers(i64(lane))
            seen.append(tirx.And(numbers >= simd.splat(low), numbers < simd.splat(high)))
            if k_scaled:
                k_factor.append(let(simd.load(state["k_scale"], *at, lane)))
            v_factors.append([let(simd.load(state["v_scale"], *at, s * layout.page + lane)) for s in scales])
            if poisoned:
                finite = finite_scales(simd, self.v_form, layout.page, state["v_scale"], at, lane)
                poison.append(let(tirx.Select(finite, simd.splat(0.0), simd.splat(float("nan")))))
        for row in range(layout.group):
            r = i64(row)
            largest = None
            for c in parts:
                score = let(simd.load(self.scores, r, c * simd.lanes))
                if k_scaled:
                    score = let(score * k_factor[c])
                if self.softcap:
                    score = simd.soft_cap(score, self.softcap * log2(e))
                if poisoned:
                    score = let(score + poison[c])
                score = let(tirx.Select(seen[c], score, simd.splat(NOTHING)))
                simd.store(self.scores, score, r, c * simd.lanes)
                largest = score if largest is None else let(maximum(largest, score))
            old = let(self.partial.peak[self.task, r])
            new = let(maximum(simd.largest(largest), old))
            factor = simd.exp2(simd.splat(old - new))
            mass = simd.load(self.partial.mass, self.task, r, 0) * factor
            for c in parts:
                weight = simd.exp2(simd.load(self.scores, r, c * simd.lanes) - simd.splat(new))
                mass = let(mass + weight)
                for s, scaled in enumerate([weight * scale for scale in v_factors[c]] or [weight]):
                    simd.store(self.weights, tirx.Select(seen[c], scaled, simd.splat(0.0)), i64(s), r, c * simd.lanes)
            simd.store(self.partial.mass, mass, self.task, r, 0)
            T.buffer_store(self.partial.peak, new, [self.task, r])
            T.buffer_store(self.rescale, tirx.Shuffle([factor], [0]), [r])

    def _coded_values(self, at: tuple[Expr, ...], low: Expr, high: Expr, following: tuple[Expr, ...]) -> None:
        layout, buffer, bands = self.layout, self.cache.state["v_codes"], self.bands["v"]
        if not bands:
            fetch = self._fetch("k", following, self._value_parts(layout.head_dim) * layout.page)
        if self.v_form.exact:
            self._sum(low, high, lambda t, lane: self.simd.load(buffer, *at, t * layout.head_dim + lane), fetch)
            return
        if "v" in self.polar:
            self.polar["v"].decode(at, self.decoded["v"])
            self._sum(low, high, lambda t, lane: self.simd.load(self.decoded["v"], t, lane), fetch)
            return
        counts = [self._value_parts(coded.band.rows) * coded.steps for coded in bands]
        fetch, done = self._fetch("k", following, sum(counts)), 0
        for coded, count in zip(bands, counts, strict=True):
            self._sum_tiles(
                lambda lanes, coded=coded: coded.values(at, lanes),
                (i64(0), i64(coded.steps)),
                coded.steps,
                (coded.band.start, coded.band.rows, coded.band.scale),
                lambda step, done=done: fetch(done + step),
            )
            done += count
        for first, end in unstored(self.v_form):
            self._rescale(first, end)

    def _sum(self, low: Expr, high: Expr, load, fetch: Fetch | None = None) -> None:
        """Adds exact values of the tokens low ≤ t < high."""

        def values(lanes):
            return lambda t: [(t, [let(load(t, lane)) for lane in lanes])]

        self._sum_tiles(values, (low, high), self.layout.page, (0, self.layout.head_dim, 0), fetch)
        self._rescale(self.layout.head_dim, self.v_form.rows)

    def _rescale(self, first: int, end: int) -> None:
        """Brings sums to which a block adds nothing to its maximum."""
        simd, sums = self.simd, self.partial.sums
        if first == end:
            return
        with T.serial(i64(self.layout.group)) as row, T.serial(i64((end - first) // simd.lanes)) as c:
            lane = first + c * simd.lanes
            scaled = simd.load(sums, self.task, row, lane) * simd.splat(self.rescale[row])
            simd.store(sums, scaled, self.task, row, lane)

    def _value_parts(self, rows: int) -> int:
        return rows // self.simd.lanes // self._blocks(rows)

    def _sum_tiles(
        self, values, steps: tuple[Expr, Expr], most: int, band: tuple[int, int, int], fetch: Fetch | None = None
    ) -> None:
        """Adds products of weights with `values`, in at most `most` steps; `band`: first row, rows, scale."""
        simd, sums = self.simd, self.partial.sums
        first, rows, scale = band
        blocks = self._blocks(rows)
        few = rows < self.layout.head_dim and 2 * blocks * self.tile_rows <= self.config.accumulators
        with self._row_tiles() as row, T.serial(i64(self._value_parts(rows))) as part:
            left = let(part * (blocks * simd.lanes))

            def lane(c, left=left):
                return left + (first + c * simd.lanes)

            sum_products(
                simd,
                rows=self.tile_rows,
                start=lambda r, c: simd.load(sums, self.task, row + r, lane(c)) * simd.splat(self.rescale[row + r]),
                coefficient=lambda r, t: self.weights[i64(scale), row + r, t],
                values=values([left + c * simd.lanes for c in range(blocks)]),
                steps=steps,
                each_step=(lambda step: fetch(part * most + step)) if fetch else None,
                blocks=blocks,
                chains=2 if few else 1,
                finish=lambda r, c, total: simd.store(sums, total, self.task, row + r, lane(c)),
            )

    def _exact(self, keys: Buffer, vectors: Buffer, at: tuple[Expr, ...], width: int, low: Expr, high: Expr) -> None:
        self._score(width, lambda d, lane: self.simd.load(keys, *at, d, lane))
        self._softmax(width, low, high)
        self._sum(low, high, lambda t, lane: self.simd.load(vectors, *at, t, lane))

    def _merge(self, head: Expr) -> None:
        """y of one query head."""
        layout, splits = self.layout, self.config.splits
        b = let(tirx.floordiv(head, i64(layout.query_heads)))
        hq = let(tirx.floormod(head, i64(layout.query_heads)))
        first = let((b * layout.kv_heads + tirx.floordiv(hq, i64(layout.group))) * splits)
        row = let(tirx.floormod(hq, i64(layout.group)))
        sink = let(sink_score(self.sink_logits, hq)) if self.has_sink_logits else None
        self.partial.merge(self.simd, first, splits, row, sink, self.y, b, hq, i64(0))
