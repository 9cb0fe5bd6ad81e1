"""Where the tiles of a sequence come from: sinks, coded pages, the tail, and in prefill the fresh chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.form import Band, Form
from tqc.codec.layout import LANES, planes
from tqc.schedules.cuda_attend import Group, Side, Strip, Tile
from tqc.schedules.cuda_builder import at_least_zero, f32, i32, i64
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_codes import Books, load_group, plane_offset
from tqc.schedules.cuda_polar import PolarPage

Load = Callable[[Expr, Expr], Expr]
"""Reads the exact value at (token, dim)."""


def exact_keys(load: Load, dim: int) -> Side:
    return Side((Strip(0, dim, None, lambda index, token: lambda j: f32(load(token, index * LANES + j))),))


def exact_values(load: Load, dim: int) -> Side:
    return Side((Strip(0, dim, None, lambda index, d: lambda j: f32(load(index * LANES + j, d))),))


@dataclass(frozen=True)
class CodedPage:
    """One side, k or v, of the coded page `at`."""

    side: str
    form: Form
    page: int
    units: Buffer
    scales: Buffer
    books: Books
    at: tuple[Expr, ...]

    def read(self) -> Side:
        strips = tuple(Strip(b.start, b.rows, b.scale, self._group(b)) for b in self.form.coded_bands)
        return Side(strips, lambda s, token: f32(self.scales[(*self.at, s * self.page + token)]), True, True)

    def _group(self, band: Band) -> Group:
        """Groups of 16 codes: along rows (K, the lanes are tokens) or tokens (V, the lanes are rows)."""
        lanes = self.page if self.side == "k" else band.rows
        widths, start = {shift: width for width, shift in planes(band.bits)}, self.form.offset(band, self.page)
        book = self.books.of(self.form, band)

        def group(index: Expr, lane: Expr) -> Callable[[Expr], Expr]:
            def unit(shift: int, i: int) -> Expr:
                width = widths[shift]
                offset = start + plane_offset(self.page * band.rows, shift) + (index * width + i) * lanes + lane
                return tirx.Cast("uint32", self.units[(*self.at, offset)])

            code = load_group(unit, band.bits)
            return lambda j: book[code(j)]

        return group


@dataclass(frozen=True)
class Share:
    """The tiles of each region that a block takes: `start`, `start + step`, …"""

    start: Expr
    step: Expr

    def count(self, first: Expr, stop: Expr) -> Expr:
        """How many of the tiles `first` … `stop − 1` the block takes."""
        return T.Bind(tirx.truncdiv(at_least_zero(stop - first - self.start + self.step - 1), self.step))

    def tile(self, first: Expr, i: Expr) -> Expr:
        return T.Bind(first + self.start + i * self.step)


@dataclass(frozen=True)
class CachedTiles:
    """The cached tokens of sequence `b`, KV head `head`: `held` tokens, from position `oldest` on."""

    cache: Cache
    books: Books
    b: Expr
    head: Expr
    held: Expr
    oldest: Expr

    def visit(self, share: Share, add: Callable[[Tile], None]) -> None:
        """Calls `add` for every tile of the block's share, inside loops over the regions."""
        cache, layout = self.cache, self.cache.layout
        if layout.sinks:
            self._visit_sinks(share, add)
        after = cache.after_sinks(self.held)
        coded = cache.pages(cache.coded(self.held))
        first = T.Bind(tirx.floordiv(at_least_zero(self.oldest - layout.sinks), i32(layout.page)))
        with T.serial(0, share.count(first, coded)) as i:
            page = share.tile(first, i)
            at = (*cache.place(self.b, page), self.head)
            keys, values = self._coded("k", at), self._coded("v", at)
            add(Tile(keys, values, layout.sinks + page * layout.page, self.held))
        if layout.recent:
            first = T.Bind(tirx.max(first, coded))
            with T.serial(0, share.count(first, cache.pages(after))) as i:
                page = share.tile(first, i)
                add(self._tail(page))

    def _visit_sinks(self, share: Share, add: Callable[[Tile], None]) -> None:
        layout, state = self.cache.layout, self.cache.state
        end = T.Bind(tirx.min(self.held, i32(layout.sinks)))
        with T.serial(0, share.count(i32(0), self.cache.pages(end))) as i:
            base = T.Bind(share.tile(i32(0), i) * layout.page)

            def slot(token: Expr) -> Expr:  # the region may be narrower than a tile
                return tirx.min(base + token, i32(layout.sink_slots - 1))

            keys = exact_keys(lambda token, d: state["sink_k"][self.b, self.head, d, slot(token)], layout.head_dim)
            values = exact_values(lambda token, d: state["sink_v"][self.b, self.head, slot(token), d], layout.head_dim)
            add(Tile(keys, values, base, end))

    def _tail(self, page: Expr) -> Tile:
        layout, state = self.cache.layout, self.cache.state
        ring = T.Bind(self.cache.ring_page(page))
        keys = exact_keys(lambda token, d: state["tail_k"][self.b, self.head, ring, d, token], layout.head_dim)
        values = exact_values(lambda token, d: state["tail_v"][self.b, self.head, ring, token, d], layout.head_dim)
        return Tile(keys, values, layout.sinks + page * layout.page, self.held)

    def _coded(self, side: str, at: tuple[Expr, ...]) -> Side:
        layout, state = self.cache.layout, self.cache.state
        page, dim, form = layout.page, layout.head_dim, layout.form(side)
        units = state[f"{side}_codes"]
        if form.kind == "polar":
            stored = PolarPage(dim, page, units, state[f"{side}_scale"], at)
            read = stored.read_keys if side == "k" else stored.read_values
            return Side((Strip(0, dim, None, read(self.books.turns)),), coded=True)
        if not form.exact:
            return CodedPage(side, form, page, units, state[f"{side}_scale"], self.books, at).read()
        if side == "k":
            return exact_keys(lambda token, d: units[(*at, d * page + token)], dim)
        return exact_values(lambda token, d: units[(*at, token * dim + d)], dim)


def visit_fresh(
    k: Buffer, v: Buffer, b: Expr, head: Expr, page: int, length: Expr, oldest: Expr, stop: Expr, add: Callable
) -> None:
    """Calls `add` for the tiles of the chunk k, v [B, Hk, S, D]: rows from position `oldest` on, before row `stop`."""
    first = T.Bind(tirx.floordiv(at_least_zero(oldest - length), i32(page)))
    last_row = k.shape[2] - 1
    with T.serial(0, Share(i32(0), i32(1)).count(first, T.Bind(tirx.floordiv(stop + (page - 1), i32(page))))) as i:
        start = T.Bind((first + i) * page)

        def row(token: Expr) -> Expr:  # the chunk may end inside a tile
            return tirx.min(i64(start + token), last_row)

        keys = exact_keys(lambda token, d: k[b, head, row(token), d], int(k.shape[3]))
        values = exact_values(lambda token, d: v[b, head, row(token), d], int(v.shape[3]))
        add(Tile(keys, values, length + start, length + stop))
