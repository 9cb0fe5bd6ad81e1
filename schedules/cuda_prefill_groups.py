"""A block of prefill whose warpgroups multiply together, on sm_90a (`cuda_wgmma`).

Every tile becomes core matrices in shared memory, keys and values times their scales, so that the products know neither
codes nor scales. Fresh tokens arrive in this order by themselves; what the cache holds lands beside it first.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx.script.builder import ir as T

from tqc.codec.fragments import ROWS as COLUMN
from tqc.codec.fragments import STRIPS, TOKENS
from tqc.schedules.cuda_builder import i32, when
from tqc.schedules.cuda_config import scratch_bytes
from tqc.schedules.cuda_cores import CORE_BYTES, EDGE, columns, core_offset, write_queries, write_side
from tqc.schedules.cuda_flash import Side
from tqc.schedules.cuda_prefill_block import PrefillBlock
from tqc.schedules.cuda_ptx import commit_copies, fence_async, hold, sync_block, u32, wait_copies
from tqc.schedules.cuda_sides import CodedPages
from tqc.schedules.cuda_wgmma import GROUP_ROWS, WARPS, GroupAttention


class GroupPrefillBlock(PrefillBlock):
    """`PrefillBlock` of warpgroups: `buffers` hold core matrices, `pages` what lands before it is in that order."""

    def place(self, after: Expr) -> None:
        self.exact = self.pages
        self.group = hold(tirx.floordiv(self.warp, i32(WARPS)))
        self.first_row = hold(self.group * GROUP_ROWS)
        scratch = hold(after + u32(self.warp) * u32(scratch_bytes(self.layout)))
        self.coded = {
            side: CodedPages(side, form, self.tables, self.lane, scratch) for side, form in self.forms.items()
        }

    def write_queries(self, value: Callable[[Expr, Expr], Expr]) -> None:
        config = self.config
        write_queries(self.memory, config.rows, self.forms["k"].rows, self.thread, config.threads, value)
        fence_async()

    def make_attention(self) -> GroupAttention:
        queries = hold(self.memory + u32(self.group) * u32(GROUP_ROWS // EDGE * CORE_BYTES))
        cores, tiles = self.config.rows // EDGE, (self.buffers["k"], self.buffers["v"])
        return GroupAttention(self.scores, self.forms["v"].rows, self.warp, self.lane, queries, cores, *tiles)

    def coded_side(self, side: str, base: Expr) -> Side:
        return self.coded[side].at(self.pages[side], self.is_held(base) if side == "v" else None)

    def expander(self, side: str) -> None:
        return None

    def fresh_piece(self, side: str, item: Expr, pieces: int) -> tuple[Expr, Expr, Expr]:
        """Eight neighbouring threads write a core matrix, so that they lie in different banks."""
        core, low = item >> 3, item & 7
        piece, eight = hold(tirx.floormod(core, i32(pieces))), hold(tirx.floordiv(core, i32(pieces)))
        if side == "k":
            offset = core_offset(piece, eight, TOKENS // EDGE)
        else:
            offset = core_offset(eight, piece, self.forms["v"].rows // EDGE)
        return hold(eight * EDGE + low), piece, offset + u32(low) * u32(16)

    def fresh_sides(self, _base: Expr, _end: Expr) -> None:
        """They are in order."""
        return None

    def _visit(
        self,
        count: Expr,
        begin_keys: Callable[[Expr], None],
        begin_values: Callable[[Expr], None],
        base: Callable[[Expr], Expr],
        end: Expr,
        sides: Callable[[Expr, Expr], tuple[Side, Side] | None],
        expand: tuple[None, None] = (None, None),
        masked: bool = True,
    ) -> None:
        """Adds `count` tiles. While keys are multiplied values are on their way, and the other way round."""
        visible, attention = self.visible(end), self.attention
        with when(count > 0):
            begin_keys(i32(0))
        commit_copies()
        with T.serial(0, count) as i:
            at = hold(base(i))
            wait_copies(0)
            fence_async()
            sync_block()  # keys are there; the values of the last tile are read
            begin_values(i)
            commit_copies()
            found = sides(at, end)
            strips = found[0].strips if found else STRIPS
            sizes = [columns(side) for side in found] if found else [self.layout.head_dim // COLUMN] * 2
            next_keys = self._next(begin_keys, i, count)
            if found:
                self._order("k", found[0])
                next_keys()
            attention.look(sizes[0], strips, at, visible, masked)
            if not found:
                sync_block()  # keys are read
                next_keys()
            wait_copies(1)
            fence_async()
            sync_block()  # values are there
            if found:
                exists = None if not masked else lambda token: at + token < end
                self._order("v", found[1], exists)
            attention.mix(sizes[1], strips, transposed=not found)
        sync_block()  # the next region may use the buffers

    def _order(self, side: str, tile: Side, exists: Callable[[Expr], Expr] | None = None) -> None:
        """Core matrices of what has landed."""
        write_side(side, tile, self.forms[side].rows, self.buffers[side], self.lane, self._is_turn, exists)
        fence_async()
        sync_block()

    @staticmethod
    def _next(begin: Callable[[Expr], None], i: Expr, count: Expr) -> Callable[[], None]:
        def begin_next() -> None:
            with when(i + 1 < count):
                begin(i + 1)
            commit_copies()

        return begin_next
