"""A block of prefill: what it does for its queries, and how its warps, each by itself, multiply.

Keys and values of a tile lie in shared memory, seen by all warps; those of the next step are on their way while one is
multiplied. Codes are expanded there once for the block.
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
from tqc.schedules.cuda_builder import at_least_zero, ceil_div, f32, i32, i64, store, to, when
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import FRESH_PAD, PrefillConfig
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


class PrefillBlock:
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
        self.place(at)

    def place(self, after: Expr) -> None:
        """Where exact tokens of the cache arrive, and the first of the warp's rows in the block's."""
        self.exact = self.buffers
        self.first_row = hold(self.warp * (self.config.tiles * ROWS))
        self.coded = {side: CodedPages(side, form, self.tables, self.lane) for side, form in self.forms.items()}

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
        """The block's rows into shared memory."""

        def value(row: Expr, dim: Expr) -> Expr:
            at = tirx.min(i64(self.query(row)), q.shape[2] - 1)
            number = q[self.b, self.query_head(row), at, dim]
            return scaled(number, self.is_query(row), self.scores.query_factor)

        self.write_queries(value)

    def write_queries(self, value: Callable[[Expr, Expr], Expr]) -> None:
        """`value(row, dim)` as operand B of all columns."""
        eights = self.config.warps * self.config.tiles
        self.queries = Queries(self.memory, self.forms["k"].rows, eights, value)
        self.queries.write(self.thread, self.config.threads)

    def make_attention(self) -> WarpAttention:
        """Registers of the warp's rows."""
        tiles, columns = self.config.tiles, self.forms["v"].rows // COLUMN
        operand = self.queries.operand(self.warp * tiles, self.lane)
        return WarpAttention(self.scores, tiles, columns, self.lane, operand)

    def begin(self, logits: Buffer | None) -> None:
        """No token seen, but for the sink logits."""
        self.attention = self.make_attention()
        self.attention.begin()
        self.positions = registers("query_positions", 2 * self.attention.tiles, "int32")
        for m, n in self.own_rows():
            row = hold(self.row(m, n))
            position = tirx.Select(self.is_query(row), self.length + self.query(row), i32(-1))
            store(self.positions, position, 2 * m + n)
            if logits is not None:
                store(self.attention.top, sink_score(logits, self.query_head(row)), 2 * m + n)
                once = tirx.Select(self.attention.counts_sinks, f32(1.0), f32(0.0))
                store(self.attention.total, once, 2 * m + n)

    def own_rows(self) -> list[tuple[int, int]]:
        """Of a lane: (m, n) for `top` and `total` number 2m + n."""
        return [(m, n) for m in range(self.attention.tiles) for n in range(2)]

    def row(self, m: int, n: int) -> Expr:
        """The block's row that `top` and `total` number 2m + n are of."""
        return self.first_row + self.attention.row(m, n)

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
            return self.coded_side(side, base)

        def expand(side: str) -> Callable[[Expr], None] | None:
            return None if self.forms[side].exact else self.expander(side)

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

    def coded_side(self, side: str, base: Expr) -> Side:
        """A page of codes at `base`, expanded or not, as the products read it."""
        if self.config.expand:
            return self.coded[side].expanded(self.pages[side], self.buffers[side])
        return self.coded[side].at(self.pages[side])

    def expander(self, side: str) -> Callable[[Expr], None] | None:
        """What is to be done with a page of codes that has arrived, before it is read."""
        if not self.config.expand:
            return None

        def to_fragments(base: Expr) -> None:
            exists = self.is_held(base) if side == "v" else None
            self.coded[side].expand(self.pages[side], self.buffers[side], self._is_turn, exists)

        return to_fragments

    def is_held(self, base: Expr) -> Callable[[Expr], Expr]:
        """Whether the cache holds a token of the tile at `base`."""
        return lambda token: base + token < self.held

    def visit_chunk(self, k: Buffer, v: Buffer) -> None:
        """The chunk's own tokens, as far as any query of the block sees them."""
        first = hold(tirx.floordiv(at_least_zero(self.oldest - self.length), i32(TOKENS)))
        count = hold(at_least_zero(ceil_div(self.stop, TOKENS) - first))
        pieces = self.layout.head_dim // 8  # of 16 bytes in a row

        def begin(side: str, fresh: Buffer) -> Callable[[Expr], None]:
            def copy(i: Expr) -> None:
                start = hold((first + i) * TOKENS)
                items, threads = TOKENS * pieces, self.config.threads
                with T.serial(0, -(-items // threads)) as turn:
                    item = hold(turn * threads + self.thread)
                    with when(item < items):
                        token, piece, offset = self.fresh_piece(side, item, pieces)
                        row = start + token
                        at = hold(tirx.min(i64(row), fresh.shape[2] - 1))
                        address = self.buffers[side] + offset
                        copy_async_or_zeros(address, fresh, self.b, self.head, at, piece * 8, exists=row < self.stop)

            return copy

        def base(i: Expr) -> Expr:
            return self.length + (first + i) * TOKENS

        self._visit(count, begin("k", k), begin("v", v), base, self.length + self.stop, self.fresh_sides)

    def fresh_piece(self, side: str, item: Expr, pieces: int) -> tuple[Expr, Expr, Expr]:
        """Token, piece and place in the side's buffer of the item-th 16 bytes of a tile of fresh tokens."""
        token, piece = hold(tirx.floordiv(item, i32(pieces))), hold(tirx.floormod(item, i32(pieces)))
        return token, piece, u32(token * self._pitch + piece * 16)

    @property
    def _pitch(self) -> int:
        return 2 * (self.layout.head_dim + FRESH_PAD)

    def fresh_sides(self, _base: Expr, _end: Expr) -> tuple[Side, Side] | None:
        """The keys and values of a tile of fresh tokens."""
        dim = self.layout.head_dim
        return tuple(rows_in_shared(self.buffers[side], self._pitch, dim, self.lane, side) for side in "kv")

    def _copy(self, side: str, size: int, array: Buffer, at: tuple[Expr, ...]) -> None:
        copy_block(self.exact[side], size, array, at, self.thread, self.config.threads)

    def _exact(self, base: Expr, end: Expr, strips: int = STRIPS) -> tuple[Side, Side]:
        return self._exact_side("k", base, end, strips), self._exact_side("v", base, end, strips)

    def _exact_side(self, side: str, base: Expr, end: Expr, strips: int, dtype: str = "float16") -> Side:
        """Exact fragments in the side's buffer. Values of tokens that are not there are read as zeros."""
        exists = (lambda token: base + token < end) if side == "v" else None
        dim = self.layout.head_dim
        return exact_in_shared(self.exact[side], dim, self.lane, strips, exists, dtype == "bfloat16")

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
        visible = self.visible(end)
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

    def visible(self, end: Expr) -> Callable[[Expr, int, int], Expr]:
        """Whether a token before `end` is seen by a row of the lane."""
        window = self.scores.window

        def seen(position: Expr, m: int, n: int) -> Expr:
            query = self.positions[2 * m + n]
            found = tirx.all(position < end, position <= query)
            return tirx.all(found, position > query - window) if window else found

        return seen

    def write(self, y: Buffer) -> None:
        """Outputs of the queries, and zeros for rows of the chunk that are padding."""
        attention, dtype = self.attention, y.dtype
        attention.finish()
        used = self.config.queries(self.layout) * self.layout.group
        for m, n in self.own_rows():
            row = hold(self.row(m, n))
            at = hold(i64(self.query(row)))
            total = attention.total[2 * m + n]
            seen = hold(tirx.all(self.is_query(row), tirx.NE(total, f32(0.0))))
            inverse = hold(tirx.Select(seen, f32(1.0) / total, f32(0.0)))
            with when(tirx.all(row < used, at < y.shape[2])):
                for dim, value in attention.outputs(m, n):
                    mixed = tirx.Select(seen, value * inverse, f32(0.0))
                    store(y, to(dtype, mixed), self.b, self.query_head(row), at, dim)
