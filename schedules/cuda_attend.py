"""Attention of a few query rows over tiles of keys and values, one page wide: the inside of decode and prefill.

A block owns the rows: `queries` queries of one GQA group each, row = query · group + head in group. A tile goes through
six phases (online softmax, Milakov & Gimelshein 2018, base 2):
    scores     threads = tokens (× slices of the key's rows): each key is read and decoded once for all rows
    masked     threads = (row, token): softcap, visibility
    maxima, then the new top and the correction of each row
    weights    threads = (row, token): 2^(score − top), and their sums, one per token lane until the end
    mixed      threads = rows of the values (× slices of the tokens): each value is read and decoded once for all rows;
               a phase for every strip, and one for the rows that the tile does not have
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import LANES, CacheLayout
from tqc.schedules.cuda_builder import accumulate, ceil_div, divide, f32, i32, local, phase, shared, store
from tqc.schedules.cuda_config import CudaConfig, value_scales

HIDDEN = -1e30
"""The score of a token that a row does not see."""
_VISIBLE = 1e-37  # added to the weight of a visible token: a weight is 0 exactly where nothing may be read


Group = Callable[[Expr, Expr], Callable[[Expr], Expr]]


@dataclass(frozen=True)
class Strip:
    """Rows `start` … `start + rows − 1` of the coded vector, all read in one way, times scale number `scale`.

    `group(index, lane)` loads 16 values (K: rows 16·index … of the strip, of token `lane`; V: tokens 16·index …, of
    row `lane` of the strip); the result gives the j-th as float32. scale None: a factor of 1.
    """

    start: int
    rows: int
    scale: int | None
    group: Group


@dataclass(frozen=True)
class Side:
    """The keys or the values of one tile: rows in no strip are zeros.

    `scale(number, token)`: a factor of a token. coded: values come 16 at a time. finite: whatever its memory holds, the
    values before the scale are finite numbers.
    """

    strips: tuple[Strip, ...]
    scale: Callable[[int, Expr], Expr] | None = None
    coded: bool = False
    finite: bool = False

    @property
    def scales(self) -> tuple[int | None, ...]:
        """The scales of the strips, each once."""
        return tuple(dict.fromkeys(strip.scale for strip in self.strips))

    def missing(self, rows: int) -> list[tuple[int, int]]:
        """(start, count) of the rows below `rows` that no strip has."""
        gaps, at = [], 0
        for strip in sorted(self.strips, key=lambda strip: strip.start):
            if strip.start > at:
                gaps.append((at, strip.start - at))
            at = strip.start + strip.rows
        return [*gaps, (at, rows - at)] if at < rows else gaps


@dataclass(frozen=True)
class Tile:
    """Tokens at positions `base` … `base + page − 1`, of which those below `end` exist."""

    keys: Side
    values: Side
    base: Expr
    end: Expr


@dataclass(frozen=True)
class Scores:
    """How a product of q and k becomes a score. window: 0 for none; softcap: 0 for none (`c·tanh(s/c)`)."""

    softmax_scale: float
    softcap: float = 0.0
    window: int = 0

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by, so that a product is a score in base 2 or the argument of tanh."""
        return self.softmax_scale / self.softcap if self.softcap else self.softmax_scale * math.log2(math.e)

    def cap(self, product: Expr) -> Expr:
        return tirx.tanh(product) * f32(self.softcap * math.log2(math.e)) if self.softcap else product


def sink_score(logits: Buffer, head: Expr) -> Expr:
    """The sink logit of a query head in base 2, as scores are; never below that of a hidden token."""
    score = T.Bind(logits[head] * f32(math.log2(math.e)))
    return T.Bind(tirx.Select(score < f32(HIDDEN), f32(HIDDEN), score))  # NaN stays


class Attention:
    """The state of a block's rows in shared memory and the phases that change it.

    A phase that reads and writes one array does so at the same item only, and each row's mixed values are an array of
    their own: so TVM can tell that threads do not meet, and adds no barrier of its own inside a phase.
    """

    def __init__(self, layout: CacheLayout, config: CudaConfig, scores: Scores, queries: int) -> None:
        self.layout, self.threads, self.options = layout, config.threads, scores
        self.rows = queries * layout.group
        self.k_slices, self.v_slices = config.k_slices(layout), config.v_slices(layout)
        page, self.k_rows, self.v_rows = layout.page, layout.form("k").rows, layout.form("v").rows
        self.q = shared("q_rows", self.k_rows, self.rows)
        self.scores = shared("scores", self.k_slices, self.rows, page)
        self.masked = shared("masked", self.rows, page)
        self.weights = [shared(f"weights_{i}", page, self.rows) for i in range(value_scales(layout))]
        self.sums = shared("sums", self.rows * page)
        self.mixed = [shared(f"mixed_{row}", self.v_slices * self.v_rows) for row in range(self.rows)]
        self.maxima = shared("maxima", self.rows, LANES)
        self.top = shared("top", self.rows)
        self.factor = shared("factor", self.rows)

    def begin(self, query: Callable[[Expr, Expr], Expr], sink: Callable[[Expr], Expr] | None = None) -> None:
        """Loads the rows, `query(row, d)` in float32 for the rows d of a coded key, and starts with no token seen.

        `sink(row)`: the score in base 2 of a token without a value that the row starts with (`sink_score`).
        """
        page = self.layout.page
        with self._phase(self.rows * self.k_rows) as item:
            row, d = divide(item, self.k_rows)
            store(self.q, query(row, d) * f32(self.options.query_factor), d, row)
        with self._phase(self.v_slices * self.v_rows) as item:
            for mixed in self.mixed:
                store(mixed, f32(0.0), item)
        with self._phase(self.rows * page) as item:
            first = tirx.EQ(tirx.floormod(item, i32(page)), i32(0))
            store(self.sums, tirx.Select(first, f32(1.0), f32(0.0)) if sink else f32(0.0), item)
        with self._phase(self.rows) as row:
            store(self.top, sink(row) if sink else f32(HIDDEN), row)

    def add(self, tile: Tile, position: Callable[[Expr], Expr], is_query: Callable[[Expr], Expr] | None = None) -> None:
        """Adds a tile. `position(row)`: the row's position in the sequence; `is_query(row)`: false for padding."""
        self._multiply(tile)
        self._mask(tile, position, is_query)
        self._raise_top()
        self._weigh(tile)
        self._mix(tile)

    def finish(self) -> Buffer:
        """Sums the weights of each row: the float32 array [rows] by which `mixed_sum` is to be divided."""
        with self._phase(self.rows) as row:
            total = local("total", 1)
            store(total, f32(0.0), 0)
            with T.serial(0, self.layout.page) as token:
                accumulate(total, self.sums[row * self.layout.page + token], 0)
            store(self.factor, total[0], row)
        return self.factor

    def mixed_sum(self, row: int, d: Expr) -> Expr:
        """Σ weight · value so far, of row `d` of the coded values."""
        mixed = self.mixed[row]
        return sum((mixed[s * self.v_rows + d] for s in range(1, self.v_slices)), mixed[d])

    def _phase(self, count: int):
        return phase(count, self.threads)

    def _multiply(self, tile: Tile) -> None:
        with self._phase(self.k_slices * self.layout.page) as item:
            part, token = divide(item, self.layout.page)
            products, sums = local("products", self.rows), local("score_sums", self.rows)
            for i, scale in enumerate(tile.keys.scales):
                with T.unroll(0, self.rows) as row:
                    store(products, f32(0.0), row)
                for strip in tile.keys.strips:
                    if strip.scale == scale:
                        self._multiply_strip(strip, part, token, products)
                factor = None if scale is None else T.Bind(tile.keys.scale(scale, token))
                with T.unroll(0, self.rows) as row:
                    more = products[row] if factor is None else products[row] * factor
                    store(sums, sums[row] + more if i else more, row)
            with T.unroll(0, self.rows) as row:
                store(self.scores, sums[row], part, row, token)

    def _multiply_strip(self, strip: Strip, part: Expr, token: Expr, products: Buffer) -> None:
        groups, rest = divmod(strip.rows // LANES, self.k_slices)
        with T.serial(0, groups + tirx.Select(part < rest, i32(1), i32(0)) if rest else groups) as i:
            group = T.Bind(part + i * self.k_slices)
            key = strip.group(group, token)
            with T.unroll(0, LANES) as j:
                x = T.Bind(key(j))
                with T.unroll(0, self.rows) as row:
                    accumulate(products, self.q[strip.start + group * LANES + j, row] * x, row)

    def _mask(self, tile: Tile, position: Callable[[Expr], Expr], is_query: Callable[[Expr], Expr] | None) -> None:
        with self._phase(self.rows * self.layout.page) as item:
            row, token = divide(item, self.layout.page)
            product = sum((self.scores[s, row, token] for s in range(1, self.k_slices)), self.scores[0, row, token])
            score = self.options.cap(product)
            at, query_at = T.Bind(tile.base + token), T.Bind(position(row))
            seen = tirx.all(at < tile.end, at <= query_at)
            if self.options.window:
                seen = tirx.all(seen, at > query_at - self.options.window)
            if is_query:
                seen = tirx.all(seen, is_query(row))
            store(self.masked, tirx.Select(seen, score, f32(HIDDEN)), row, token)

    def _raise_top(self) -> None:
        with self._phase(self.rows * LANES) as item:
            row, lane = divide(item, LANES)
            best = local("best", 1)
            store(best, self.masked[row, lane], 0)
            with T.serial(0, self.layout.page // LANES) as i:
                store(best, tirx.max(best[0], self.masked[row, i * LANES + lane]), 0)
            store(self.maxima, best[0], row, lane)
        with self._phase(self.rows) as row:
            best = local("best", 1)
            store(best, self.top[row], 0)
            with T.serial(0, LANES) as lane:
                store(best, tirx.max(best[0], self.maxima[row, lane]), 0)
            store(self.factor, tirx.exp2(self.top[row] - best[0]), row)
            store(self.top, best[0], row)

    def _weigh(self, tile: Tile) -> None:
        with self._phase(self.rows * self.layout.page) as item:
            row, token = divide(item, self.layout.page)
            score = T.Bind(self.masked[row, token])
            seen = tirx.NE(score, f32(HIDDEN))
            weight = T.Bind(tirx.Select(seen, tirx.exp2(score - self.top[row]) + f32(_VISIBLE), f32(0.0)))
            store(self.sums, self.sums[item] * self.factor[row] + weight, item)
            for weights, scale in zip(self.weights, tile.values.scales, strict=False):
                scaled = weight
                if scale is not None:
                    scaled = tirx.Select(seen, weight * tile.values.scale(scale, token), f32(0.0))
                store(weights, scaled, token, row)

    def _mix(self, tile: Tile) -> None:
        weights = dict(zip(tile.values.scales, self.weights, strict=False))
        for strip in tile.values.strips:
            with self._phase(self.v_slices * strip.rows) as item:
                part, lane = divide(item, strip.rows)
                sums = local("row_sums", self.rows)
                with T.unroll(0, self.rows) as row:
                    store(sums, f32(0.0), row)
                if tile.values.coded:
                    self._mix_groups(strip, weights[strip.scale], part, lane, sums, finite=tile.values.finite)
                else:
                    self._mix_tokens(strip, weights[strip.scale], part, lane, sums, tile.end - tile.base)
                at = T.Bind(part * self.v_rows + strip.start + lane)
                for row, mixed in enumerate(self.mixed):
                    store(mixed, mixed[at] * self.factor[row] + sums[row], at)
        for start, rows in tile.values.missing(self.v_rows):
            with self._phase(self.v_slices * rows) as item:
                part, lane = divide(item, rows)
                at = T.Bind(part * self.v_rows + start + lane)
                for row, mixed in enumerate(self.mixed):
                    store(mixed, mixed[at] * self.factor[row], at)

    def _mix_groups(self, strip: Strip, weights: Buffer, part: Expr, lane: Expr, sums: Buffer, *, finite: bool) -> None:
        groups = self.layout.page // LANES // self.v_slices
        with T.serial(0, groups) as i:
            group = T.Bind(part * groups + i)
            value = strip.group(group, lane)
            with T.unroll(0, LANES) as j:
                self._mix_token(sums, T.Bind(value(j)), weights, group * LANES + j, always=finite)

    def _mix_tokens(self, strip: Strip, weights: Buffer, part: Expr, lane: Expr, sums: Buffer, tokens: Expr) -> None:
        count = tirx.max(i32(0), tirx.min(tokens, i32(self.layout.page)) - part)
        with T.serial(0, T.Bind(ceil_div(count, self.v_slices))) as i:
            token = T.Bind(i * self.v_slices + part)
            value = strip.group(tirx.floordiv(token, i32(LANES)), lane)
            self._mix_token(sums, T.Bind(value(tirx.floormod(token, i32(LANES)))), weights, token, always=False)

    def _mix_token(self, sums: Buffer, x: Expr, weights: Buffer, token: Expr, *, always: bool) -> None:
        with T.unroll(0, self.rows) as row:
            weight = weights[token, row]
            more = sums[row] + weight * x
            # A value that may be infinite or NaN must not reach a row that does not see it.
            store(sums, more if always else tirx.Select(tirx.NE(weight, f32(0.0)), more, sums[row]), row)
