"""Prefill on CUDA: a chunk of queries against the cached tokens and, causally, against the chunk's own exact k, v.

A block has some queries with their whole GQA group as rows, dealt out to its warps, and goes over all tiles: coded
pages, the tail, sinks, and the chunk itself. Keys and values of a tile lie in shared memory, seen by all warps; those
of the next step are on their way while one is multiplied. Codes are expanded there once for the block.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIP, STRIPS, TOKENS
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import (
    argument,
    at_least_zero,
    blocks,
    build_kernel,
    ceil_div,
    dimension,
    f32,
    i32,
    i64,
    store,
    threads,
    to,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import FRESH_PAD, PrefillConfig, check_dtype, default_config
from tqc.schedules.cuda_copies import copy_block, copy_page
from tqc.schedules.cuda_flash import ROWS, Scores, Side, Tile, WarpAttention
from tqc.schedules.cuda_merge import sink_score
from tqc.schedules.cuda_ptx import (
    commit_copies,
    copy_async_or_zeros,
    hold,
    registers,
    shared_memory,
    sync_block,
    u32,
    wait_copies,
)
from tqc.schedules.cuda_queries import Queries, scaled
from tqc.schedules.cuda_share import Regions
from tqc.schedules.cuda_sides import CodedPages, Tables, exact_in_shared, rows_in_shared


def make_prefill(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    dtype: str = "float32",
    config: PrefillConfig | None = None,
    arch: str = "sm_80",
) -> tirx.PrimFunc:
    """prefill(q [B, H, S, R], k, v [B, Hk, S, D], length [B], new_len [B], page_table [B, NP], *state, y [B, H, S, P]).

    q, y are of `dtype`, k and v float16; R and P are the rows of a coded key and of a coded value: D and, behind it,
    those of sketches. The cache does not hold the chunk yet: query i, at position length + i, sees the `length` cached
    tokens and rows j ≤ i of the chunk. Rows from new_len on are padding and get zeros. `sink_logits`: behind v comes an
    argument [H] float32, the logit of a token without a value that each query head sees. Raises TargetError if the
    layout does not fit a block.
    """
    config = config or default_config("prefill", layout, arch)
    check_dtype(dtype)
    config.check(layout, arch)
    layout.check_window(window)
    scores = Scores(softmax_scale, softcap, window)
    return build_kernel("cuda_prefill", lambda: _emit(layout, scores, sink_logits, dtype, config))


def _emit(layout: CacheLayout, scores: Scores, sink_logits: bool, dtype: str, config: PrefillConfig) -> None:
    batch, chunk, dim = dimension("batch"), dimension("chunk"), layout.head_dim
    q = argument("q", (batch, layout.query_heads, chunk, layout.form("k").rows), dtype)
    k = argument("k", (batch, layout.kv_heads, chunk, dim), "float16")
    v = argument("v", (batch, layout.kv_heads, chunk, dim), "float16")
    logits = argument("sink_logits", (layout.query_heads,), "float32") if sink_logits else None
    cache = Cache.declare(layout, batch)
    y = argument("y", (batch, layout.query_heads, chunk, layout.form("v").rows), dtype)
    queries = config.queries(layout)
    tiles = tirx.floordiv(chunk + (queries - 1), tirx.const(queries, "int64"))
    with blocks(tiles, layout.kv_heads, batch) as (x, head, b), threads(config.threads) as thread:
        block = _Block(layout, scores, config, cache, b, head, i32(x) * queries, thread)
        block.read_queries(q)
        block.begin(logits)
        block.visit_cache()
        block.visit_chunk(k, v)
        block.write(y)


class _Block:
    """One block: the queries from row `first` of the chunk on, with their GQA group."""

    def __init__(
        self,
        layout: CacheLayout,
        scores: Scores,
        config: PrefillConfig,
        cache: Cache,
        b: Expr,
        head: Expr,
        first: Expr,
        thread: Expr,
    ) -> None:
        self.layout, self.scores, self.config, self.cache = layout, scores, config, cache
        self.b, self.head, self.first, self.thread = b, head, hold(first), thread
        self.lane, self.warp = hold(thread & 31), hold(thread >> 5)
        self.new, self.length = hold(cache.new_len[b]), hold(cache.length[b])
        active = self.first < self.new
        self.held = hold(tirx.Select(active, self.length, i32(0)))
        self.stop = hold(tirx.Select(active, tirx.min(self.first + config.queries(layout), self.new), i32(0)))
        self.oldest = hold(self.length + self.first - scores.window + 1) if scores.window else i32(0)
        self.forms = {side: layout.form(side) for side in "kv"}
        self.tiles = config.tiles
        self.memory = memory = shared_memory(config.shared_bytes(layout))
        both = (self.forms["k"], self.forms["v"])
        table = hold(memory + u32(config.query_bytes(layout)))
        self.tables = Tables.fill(table, both, thread, config.threads)
        sync_block()
        self.buffers, self.pages = {}, {}
        at = hold(table + u32(Tables.bytes_of(both)))
        for side in "kv":
            self.buffers[side] = self.pages[side] = at
            if config.expand:
                self.pages[side] = hold(at + u32(config.buffer_bytes(layout, side)))
            at = hold(at + u32(config.side_bytes(layout, side)))

    def query(self, row: Expr) -> Expr:
        """Row of the chunk that a row of the block asks for."""
        return self.first + tirx.floordiv(row, i32(self.layout.group))

    def query_head(self, row: Expr) -> Expr:
        return self.head * self.layout.group + tirx.floormod(row, i32(self.layout.group))

    def is_query(self, row: Expr) -> Expr:
        """Whether a row of the block is a query that exists."""
        used = self.config.queries(self.layout) * self.layout.group
        return tirx.all(row < used, self.query(row) < self.new)

    def read_queries(self, q: Buffer) -> None:
        """The rows as operand B of all columns."""

        def value(row: Expr, dim: Expr) -> Expr:
            at = tirx.min(i64(self.query(row)), q.shape[2] - 1)
            number = q[self.b, self.query_head(row), at, dim]
            return scaled(number, self.is_query(row), self.scores.query_factor)

        self.queries = Queries(self.memory, self.forms["k"].rows, self.config.warps * self.tiles, value)
        self.queries.write(self.thread, self.config.threads)

    def begin(self, logits: Buffer | None) -> None:
        """No token seen, but for the sink logits."""
        operand = self.queries.operand(self.warp * self.tiles, self.lane)
        self.attention = WarpAttention(self.scores, self.tiles, self.forms["v"].rows // COLUMN, self.lane, operand)
        self.attention.begin()
        self.positions = registers("query_positions", 2 * self.tiles, "int32")
        for m in range(self.tiles):
            for n in range(2):
                row = hold(self.row(m, n))
                position = tirx.Select(self.is_query(row), self.length + self.query(row), i32(-1))
                store(self.positions, position, 2 * m + n)
                if logits is not None:
                    store(self.attention.top, sink_score(logits, self.query_head(row)), 2 * m + n)
                    # once a row: the lanes of a row add up their totals at the end
                    once = tirx.Select(tirx.EQ(self.attention.g, i32(0)), f32(1.0), f32(0.0))
                    store(self.attention.total, once, 2 * m + n)

    def row(self, m: int, n: int) -> Expr:
        """The block's row that is row 2t + n of the warp's rows number m."""
        return (self.warp * self.tiles + m) * ROWS + self.attention.t * 2 + n

    def visit_cache(self) -> None:
        """The cached tokens: coded pages, the tail, the sinks."""
        layout, cache, state = self.layout, self.cache, self.cache.state
        regions = Regions.of(cache, self.held, self.oldest)
        self._visit_pages(regions)
        if layout.recent:

            def tail(side: str) -> Callable[[Expr], None]:
                def begin(i: Expr) -> None:
                    at = (self.b, self.head, cache.ring_page(regions.tail.first + i))
                    self._copy(side, 2 * TOKENS * layout.head_dim, state[f"tail_{side}"], at)

                return begin

            def base(i: Expr) -> Expr:
                return layout.sinks + (regions.tail.first + i) * TOKENS

            self._visit(regions.tail.count, tail("k"), tail("v"), base, self.held, self._exact)
        if layout.sinks:

            def sinks(side: str) -> Callable[[Expr], None]:
                size = 2 * layout.sink_slots * layout.head_dim
                return lambda _i: self._copy(side, size, state[f"sink_{side}"], (self.b, self.head))

            end, strips = hold(tirx.min(self.held, i32(layout.sinks))), layout.sink_slots // STRIP
            sides = lambda base, end: self._exact(base, end, strips)  # noqa: E731
            self._visit(regions.sinks.count, sinks("k"), sinks("v"), lambda _i: i32(0), end, sides)

    def _visit_pages(self, regions: Regions) -> None:
        layout, cache = self.layout, self.cache
        pages = {side: CodedPages(side, form, self.tables, self.lane) for side, form in self.forms.items()}

        def begin(side: str) -> Callable[[Expr], None]:
            form = self.forms[side]

            def copy(i: Expr) -> None:
                at = (*cache.place(self.b, regions.coded.first + i), self.head)
                if form.exact:
                    self._copy(side, 2 * TOKENS * layout.head_dim, cache.state[f"{side}_codes"], at)
                else:
                    copy_page(self.pages[side], side, form, cache, at, self.thread, self.config.threads)

            return copy

        def side_of(side: str, base: Expr, end: Expr) -> Side:
            form = self.forms[side]
            if form.exact:
                return self._exact_side(side, base, end, STRIPS, form.dtype)
            if self.config.expand:
                return pages[side].expanded(self.pages[side], self.buffers[side])
            return pages[side].at(self.pages[side])

        def expand(side: str) -> Callable[[Expr], None] | None:
            if self.forms[side].exact or not self.config.expand:
                return None

            def to_fragments(base: Expr) -> None:
                exists = (lambda token: base + token < self.held) if side == "v" else None
                pages[side].expand(self.pages[side], self.buffers[side], self._is_turn, exists)

            return to_fragments

        self._visit(
            regions.coded.count,
            begin("k"),
            begin("v"),
            lambda i: layout.sinks + (regions.coded.first + i) * TOKENS,
            self.held,
            lambda base, end: (side_of("k", base, end), side_of("v", base, end)),
            (expand("k"), expand("v")),
            masked=not layout.recent or bool(self.scores.window),
        )

    def visit_chunk(self, k: Buffer, v: Buffer) -> None:
        """The chunk's own tokens, as far as any query of the block sees them."""
        first = hold(tirx.floordiv(at_least_zero(self.oldest - self.length), i32(TOKENS)))
        count = hold(at_least_zero(ceil_div(self.stop, TOKENS) - first))
        dim, pitch = self.layout.head_dim, 2 * (self.layout.head_dim + FRESH_PAD)
        pieces = dim // 8  # of 16 bytes in a row

        def begin(side: str, fresh: Buffer) -> Callable[[Expr], None]:
            def copy(i: Expr) -> None:
                start = hold((first + i) * TOKENS)
                items, threads = TOKENS * pieces, self.config.threads
                with T.serial(0, -(-items // threads)) as turn:
                    item = hold(turn * threads + self.thread)
                    with when(item < items):
                        token, piece = hold(tirx.floordiv(item, i32(pieces))), hold(tirx.floormod(item, i32(pieces)))
                        row = start + token
                        at = hold(tirx.min(i64(row), fresh.shape[2] - 1))
                        address = self.buffers[side] + u32(token * pitch + piece * 16)
                        copy_async_or_zeros(address, fresh, self.b, self.head, at, piece * 8, exists=row < self.stop)

            return copy

        def sides(_base: Expr, _end: Expr) -> tuple[Side, Side]:
            return tuple(rows_in_shared(self.buffers[side], pitch, dim, self.lane, side) for side in "kv")

        def base(i: Expr) -> Expr:
            return self.length + (first + i) * TOKENS

        self._visit(count, begin("k", k), begin("v", v), base, self.length + self.stop, sides)

    def _copy(self, side: str, size: int, array: Buffer, at: tuple[Expr, ...]) -> None:
        copy_block(self.buffers[side], size, array, at, self.thread, self.config.threads)

    def _exact(self, base: Expr, end: Expr, strips: int = STRIPS) -> tuple[Side, Side]:
        return self._exact_side("k", base, end, strips), self._exact_side("v", base, end, strips)

    def _exact_side(self, side: str, base: Expr, end: Expr, strips: int, dtype: str = "float16") -> Side:
        """Exact fragments in the side's buffer. Values of tokens that are not there are read as zeros."""
        exists = (lambda token: base + token < end) if side == "v" else None
        dim = self.layout.head_dim
        return exact_in_shared(self.buffers[side], dim, self.lane, strips, exists, dtype == "bfloat16")

    def _is_turn(self, column: int) -> Expr:
        """Whether the warp is the one that expands a column."""
        return tirx.EQ(self.warp, i32(column % self.config.warps))

    def _visit(
        self,
        count: Expr,
        begin_keys: Callable[[Expr], None],
        begin_values: Callable[[Expr], None],
        base: Callable[[Expr], Expr],
        end: Expr,
        sides: Callable[[Expr, Expr], tuple[Side, Side]],
        expand: tuple[Callable[[Expr], None] | None, Callable[[Expr], None] | None] = (None, None),
        masked: bool = True,
    ) -> None:
        """Adds `count` tiles. While keys are multiplied values are on their way, and the other way round."""
        window = self.scores.window

        def visible(position: Expr, m: int, n: int) -> Expr:
            query = self.positions[2 * m + n]
            seen = tirx.all(position < end, position <= query)
            return tirx.all(seen, position > query - window) if window else seen

        with when(count > 0):
            begin_keys(i32(0))
        commit_copies()
        with T.serial(0, count) as i:
            wait_copies(0)
            sync_block()  # keys are there; the values of the last tile are read
            begin_values(i)
            commit_copies()
            at = hold(base(i))
            if expand[0]:
                expand[0](at)
                sync_block()
            tile = Tile(*sides(at, end), at, masked)
            self.attention.look(tile, visible)
            sync_block()  # keys are read
            with when(i + 1 < count):
                begin_keys(i + 1)
            commit_copies()
            wait_copies(1)
            sync_block()  # values are there
            if expand[1]:
                expand[1](at)
                sync_block()
            self.attention.mix(tile)
        sync_block()  # the next region may use the buffers

    def write(self, y: Buffer) -> None:
        """Outputs of the queries, and zeros for rows of the chunk that are padding."""
        attention, dtype = self.attention, y.dtype
        attention.finish()
        used = self.config.queries(self.layout) * self.layout.group
        for m in range(self.tiles):
            for n in range(2):
                row = hold(self.row(m, n))
                at = hold(i64(self.query(row)))
                total = attention.total[2 * m + n]
                seen = hold(tirx.all(self.is_query(row), tirx.NE(total, f32(0.0))))
                inverse = hold(tirx.Select(seen, f32(1.0) / total, f32(0.0)))
                with when(tirx.all(row < used, at < y.shape[2])):
                    for column in range(attention.v_columns):
                        for half in range(2):
                            dim = column * COLUMN + attention.g + 8 * half
                            value = attention.output(column, m, 2 * half + n)
                            mixed = tirx.Select(seen, value * inverse, f32(0.0))
                            store(y, to(dtype, mixed), self.b, self.query_head(row), at, dim)
