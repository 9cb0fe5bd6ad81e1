"""Decode on CUDA: one query a sequence against its cache, the context split over blocks, merged in a fixed order.

A block has a split of one KV head's context and up to 16 of its query heads. Each of its warps takes every n-th tile
with a softmax of its own, so that warps need no barrier until the end. Coded pages come through shared memory, some
stages ahead, by asynchronous copies of the warp that reads them; the few exact tiles are read where they lie.
"""

from __future__ import annotations

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIP, TOKENS
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import (
    argument,
    blocks,
    build_kernel,
    ceil_div,
    dimension,
    f32,
    i32,
    store,
    threads,
    when,
)
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_config import (
    DecodeConfig,
    check_dtype,
    default_config,
    scratch_bytes,
)
from tqc.schedules.cuda_copies import copy_page
from tqc.schedules.cuda_flash import ROWS, Scores, Side, Tile, WarpAttention
from tqc.schedules.cuda_int8 import Int8Queries
from tqc.schedules.cuda_merge import Partials, emit_merge
from tqc.schedules.cuda_ptx import (
    WARP,
    commit_copies,
    exp2,
    hold,
    load_shared_float,
    registers,
    shared_memory,
    store_shared_float,
    sync_block,
    sync_warp,
    u32,
    wait_copies,
)
from tqc.schedules.cuda_queries import Queries, scaled
from tqc.schedules.cuda_rotate import Turn
from tqc.schedules.cuda_share import Regions, Worker
from tqc.schedules.cuda_sides import CodedPages, Tables, exact_side, page_bytes


def make_decode(
    layout: CacheLayout,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: bool = False,
    dtype: str = "float32",
    turn: Turn | None = None,
    turn_back: Turn | None = None,
    config: DecodeConfig | None = None,
    arch: str = "sm_80",
) -> tirx.PrimFunc:
    """decode(q [B, H, 1, R], length [B], new_len [B], page_table [B, NP], *state, y [B, H, 1, P]); q, y of `dtype`.

    R and P are the rows of a coded key and of a coded value: head_dim and, behind it, those of sketches. The cache
    already holds the new token: attention is over length + new_len tokens. Sequences without a new token get zeros. Two
    launches: partial results of the splits of every KV head and sequence, then their merge; the partial results
    lie in a workspace of TVM's. `sink_logits`: behind q comes an argument [H] float32, the logit of a token without a
    value that each query head sees; it is counted in the merge. `turn`: queries are rotated here, on their way into the
    tensor cores; `turn_back`: outputs leave the rotated basis in the merge. Raises TargetError if the layout does not
    fit a block.
    """
    config = config or default_config("decode", layout, arch)
    check_dtype(dtype)
    config.check(layout, arch)
    layout.check_window(window)
    scores = Scores(softmax_scale, softcap, window)
    return build_kernel("cuda_decode", lambda: _emit(layout, scores, sink_logits, dtype, turn, turn_back, config))


def _emit(
    layout: CacheLayout,
    scores: Scores,
    sink_logits: bool,
    dtype: str,
    turn: Turn | None,
    turn_back: Turn | None,
    config: DecodeConfig,
) -> None:
    batch, heads, v_rows = dimension("batch"), layout.query_heads, layout.form("v").rows
    q = argument("q", (batch, heads, 1, layout.form("k").rows), dtype)
    logits = argument("sink_logits", (heads,), "float32") if sink_logits else None
    cache = Cache.declare(layout, batch)
    y = argument("y", (batch, heads, 1, v_rows), dtype)
    groups = layout.kv_heads * config.groups(layout)
    splits = _splits(cache, batch * groups, config)
    partials = Partials.allocate(batch, heads, config.most_splits, v_rows)

    with (
        blocks(splits, groups, batch, resident=config.resident(layout)) as (split, group, b),
        threads(config.threads) as thread,
    ):
        block = _Block(layout, scores, config, turn, cache, b, group, i32(split), i32(splits), thread)
        with when(block.split < block.used):
            block.read_queries(q)
            block.attend()
            block.add_up(partials)
    emit_merge(partials, lambda b: _used(cache, scores, b, i32(splits), config)[2], logits, y, turn_back)


def _splits(cache: Cache, groups: Expr, config: DecodeConfig) -> Expr:
    """Blocks that share a context, int64: as many as fill the device, but no more than have a tile for each warp."""
    layout = cache.layout
    coded = cache.ring if layout.ring else cache.page_table.shape[1]
    tiles = coded + (layout.tail_pages + bool(layout.sinks))
    wanted = tirx.floordiv(groups + (config.blocks - 1), groups)
    useful = tirx.floordiv(tiles + (config.warps - 1), tirx.const(config.warps, "int64"))
    return tirx.max(tirx.min(tirx.min(wanted, useful), tirx.const(config.most_splits, "int64")), tirx.const(1, "int64"))


def _used(cache: Cache, scores: Scores, b: Expr, splits: Expr, config: DecodeConfig) -> tuple[Expr, Regions, Expr]:
    """(tokens held, their tiles, the splits that have any) of sequence `b`."""
    held = hold(tirx.Select(cache.new_len[b] > 0, cache.length[b] + cache.new_len[b], 0))
    regions = Regions.of(cache, held, held - scores.window if scores.window else i32(0))
    return held, regions, hold(tirx.min(splits, ceil_div(regions.total, config.warps)))


class _Block:
    """One block: some query heads of one KV head against the tiles of one split."""

    def __init__(
        self,
        layout: CacheLayout,
        scores: Scores,
        config: DecodeConfig,
        turn: Turn | None,
        cache: Cache,
        b: Expr,
        group: Expr,
        split: Expr,
        splits: Expr,
        thread: Expr,
    ) -> None:
        self.layout, self.config, self.cache, self.scores = layout, config, cache, scores
        self.turn = turn
        self.b, self.split, self.thread = b, split, thread
        self.head = hold(tirx.floordiv(i32(group), i32(config.groups(layout))))
        self.first_row = hold(tirx.floormod(i32(group), i32(config.groups(layout))) * config.rows(layout))
        self.lane, self.warp = hold(thread & 31), hold(thread >> 5)
        self.held, self.regions, self.used = _used(cache, scores, b, splits, config)
        self.forms = {side: layout.form(side) for side in "kv"}
        self.memory = shared_memory(config.shared_bytes(layout))

    def query_head(self, row: Expr) -> Expr:
        """The query head of a row of the block."""
        return self.head * self.layout.group + self.first_row + row

    def is_query(self, row: Expr) -> Expr:
        """Whether a row of the block is a query head: the last rows may be too many."""
        return tirx.all(row < self.config.rows(self.layout), self.first_row + row < self.layout.group)

    def read_queries(self, q: Buffer) -> None:
        """The rows as operand B of all columns, and the tables of the decoders."""

        def value(row: Expr, dim: Expr) -> Expr:
            head = tirx.min(self.query_head(row), i32(self.layout.query_heads - 1))
            return scaled(q[self.b, head, 0, dim], self.is_query(row), self.scores.query_factor)

        self.queries = Queries(self.memory, self.forms["k"].rows, self.config.row_tiles(self.layout), value)
        if self.turn is None:
            self.queries.write(self.thread, self.config.threads)
        else:
            self.queries.write_turned(self.turn, self.lane, self.warp, self.config.warps)
        self.table_address = hold(self.memory + u32(self.config.query_bytes(self.layout)))
        both = (self.forms["k"], self.forms["v"])
        self.tables = Tables.fill(self.table_address, both, self.thread, self.config.threads)
        sync_block()
        self.int8 = None
        after_tables = self.table_address + u32(Tables.bytes_of(both))
        self.own_address = hold(after_tables + u32(self.config.int8_bytes(self.layout)))
        if self.config.keys == "int8":
            self.int8 = Int8Queries(hold(after_tables), self.forms["k"], self.config.row_tiles(self.layout))
            self.int8.write(self.memory, self.lane, self.warp, self.config.warps)
            sync_block()

    def attend(self) -> None:
        """Runs over the warp's tiles."""
        tiles = self.config.row_tiles(self.layout)

        operand = self.queries.operand(i32(0), self.lane)
        self.attention = WarpAttention(self.scores, tiles, self.forms["v"].rows // COLUMN, self.lane, operand)
        self.attention.begin()
        worker = Worker(hold(self.split * self.config.warps + self.warp), hold(self.used * self.config.warps))
        self._visit_coded(worker)
        if self.layout.recent:
            self._visit_tail(worker)
        if self.layout.sinks:
            self._visit_sinks(worker)
        self.attention.finish()

    def _add(self, keys: Side, values: Side, base: Expr, end: Expr, masked: bool) -> None:
        oldest = self.held - self.scores.window

        def visible(position: Expr, _m: int, _n: int) -> Expr:
            return tirx.all(position < end, position >= oldest) if self.scores.window else position < end

        self.attention.add(Tile(keys, values, base, masked), visible)

    def _exists(self, base: Expr, end: Expr):
        """Of tokens of the tile at `base`: whether any row sees them, and may be hurt by what they hold."""
        oldest = self.held - self.scores.window
        if self.scores.window:
            return lambda token: tirx.all(base + token < end, base + token >= oldest)
        return lambda token: base + token < end

    def _visit_coded(self, worker: Worker) -> None:
        """Pages, copied `stages` − 1 ahead of where they are read."""
        layout, stages, region = self.layout, self.config.stages, self.regions.coded
        start, count = worker.share(region)
        own = hold(self.own_address + u32(self.warp) * u32(self.config.warp_bytes(layout)))
        first_stage = hold(own + u32(scratch_bytes(layout)))
        int8 = {"k": self.int8, "v": None}
        pages = {
            side: CodedPages(side, form, self.tables, self.lane, own, int8[side]) for side, form in self.forms.items()
        }

        def stage(i: Expr) -> dict[str, Expr]:
            keys = hold(first_stage + u32(tirx.floormod(i, i32(stages))) * u32(self.config.stage_bytes(layout)))
            return {"k": keys, "v": hold(keys + u32(page_bytes(self.forms["k"])))}

        def place(i: Expr) -> tuple[Expr, ...]:
            return (*self.cache.place(self.b, worker.page(region, start, i)), self.head)

        def begin(i: Expr) -> None:
            at, addresses = place(i), stage(i)
            for side, form in self.forms.items():
                if not form.exact:
                    copy_page(addresses[side], side, form, self.cache, at, self.lane, WARP)

        for i in range(stages - 1):
            with when(i32(i) < count):
                begin(i32(i))
            commit_copies()
        # A page is whole unless tokens are coded at once; a window may begin inside of one.
        masked = not layout.recent or bool(self.scores.window)
        with T.serial(0, count) as i:
            with when(i + (stages - 1) < count):
                begin(i + (stages - 1))
            commit_copies()
            wait_copies(stages - 1)
            sync_warp()
            base = hold(layout.sinks + worker.page(region, start, i) * TOKENS)
            addresses, sides = stage(i), []
            for side, form in self.forms.items():
                exists = self._exists(base, self.held) if masked and side == "v" else None
                if form.exact:
                    array = self.cache.state[f"{side}_codes"]
                    sides.append(exact_side(array, place(i), layout.head_dim, self.lane, exists=exists))
                else:
                    sides.append(pages[side].at(addresses[side], exists))
            self._add(*sides, base, self.held, masked)
            sync_warp()

    def _visit_tail(self, worker: Worker) -> None:
        layout, region = self.layout, self.regions.tail
        start, count = worker.share(region)
        with T.serial(0, count) as i:
            page = hold(worker.page(region, start, i))
            self._add_exact("tail", (self.cache.ring_page(page),), hold(layout.sinks + page * TOKENS), self.held, 4)

    def _visit_sinks(self, worker: Worker) -> None:
        layout = self.layout
        _, count = worker.share(self.regions.sinks)
        end = hold(tirx.min(self.held, i32(layout.sinks)))
        with T.serial(0, count):
            self._add_exact("sink", (), i32(0), end, layout.sink_slots // STRIP)

    def _add_exact(self, name: str, at: tuple[Expr, ...], base: Expr, end: Expr, strips: int) -> None:
        """A tile of exact tokens, at most four strips."""
        state, dim, where = self.cache.state, self.layout.head_dim, (self.b, self.head, *at)
        keys = exact_side(state[f"{name}_k"], where, dim, self.lane, strips=strips)
        exists = self._exists(base, end)
        values = exact_side(state[f"{name}_v"], where, dim, self.lane, strips=strips, exists=exists)
        self._add(keys, values, base, end, masked=True)

    def add_up(self, partials: Partials) -> None:
        """The sums of all warps, in the order of the warps, to the partial results of the split."""
        rows, v_rows, attention = ROWS * self.config.row_tiles(self.layout), self.forms["v"].rows, self.attention
        pitch, warps, count = v_rows + 4, self.config.warps, self.config.threads
        tops = hold(self.memory + u32(warps * rows * pitch * 4))
        sync_block()  # the stages are read to the end
        first = hold(self.warp * rows)
        for m in range(self.config.row_tiles(self.layout)):
            for n in range(4):
                row = first + m * ROWS + attention.t * 2 + n % 2
                for column in range(v_rows // COLUMN):
                    dim = column * COLUMN + attention.g + 8 * (n // 2)
                    at = self.memory + u32(row * pitch + dim) * u32(4)
                    store_shared_float(at, attention.output(column, m, n))
                if n < 2:
                    with when(tirx.EQ(attention.g, i32(0))):
                        at = hold(tops + u32(row) * u32(8))
                        store_shared_float(at, attention.top[2 * m + n])
                        store_shared_float(at + u32(4), attention.total[2 * m + n])
        sync_block()
        found, item_top, factor = registers("found", 2), registers("item_top", 1), registers("split_factor", 1)
        items = self.config.rows(self.layout) * v_rows
        with T.serial(0, -(-items // count)) as turn:
            item = hold(turn * count + self.thread)
            row, dim = hold(tirx.floordiv(item, i32(v_rows))), hold(tirx.floormod(item, i32(v_rows)))
            with when(tirx.all(item < items, self.is_query(row))):
                warp_tops = registers("warp_tops", warps)
                for warp in range(warps):
                    load_shared_float(warp_tops[warp], tops + u32(row + warp * rows) * u32(8))
                store(item_top, warp_tops[0], 0)
                for warp in range(1, warps):
                    store(item_top, tirx.max(item_top[0], warp_tops[warp]), 0)
                sums = [registers("value_sum", 1), registers("total_sum", 1)]
                for x in sums:
                    store(x, f32(0.0), 0)
                for warp in range(warps):
                    exp2(factor[0], warp_tops[warp] - item_top[0])
                    at = self.memory + u32((row + warp * rows) * pitch + dim) * u32(4)
                    load_shared_float(found[0], at)
                    load_shared_float(found[1], tops + u32(row + warp * rows) * u32(8) + u32(4))
                    for x, value in zip(sums, (found[0], found[1]), strict=True):
                        store(x, x[0] + value * factor[0], 0)
                head = hold(self.query_head(row))
                store(partials.values, sums[0][0], self.b, head, self.split, dim)
                with when(tirx.EQ(dim, i32(0))):
                    store(partials.tops, item_top[0], self.b, head, self.split)
                    store(partials.totals, sums[1][0], self.b, head, self.split)
