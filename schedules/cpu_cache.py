"""The cache as a CPU kernel sees it: its buffers, and where the tokens of one sequence lie."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T
from tvm.tirx import Buffer

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_simd import i64, let, maximum


def argument(name: str, shape: tuple[int | Expr, ...], dtype: str) -> Buffer:
    """The next parameter of the PrimFunc that is being built."""
    dims = tuple(i64(dim) if isinstance(dim, int) else dim for dim in shape)
    return T.match_buffer(T.arg(name, T.handle()), dims, dtype)


@dataclass(frozen=True)
class Cache:
    """The parameters `length, new_len, page_table, *state` shared by append, decode and prefill."""

    layout: CacheLayout
    length: Buffer
    new_len: Buffer
    page_table: Buffer
    state: dict[str, Buffer]

    @classmethod
    def declare(cls, layout: CacheLayout, batch: Expr) -> Cache:
        """Adds the parameters to the PrimFunc that is being built."""
        length = argument("length", (batch,), "int32")
        new_len = argument("new_len", (batch,), "int32")
        page_table = argument("page_table", (batch, tirx.Var("table_pages", "int64")), "int32")
        symbols = {"batch": batch, "pages": tirx.Var("pages", "int64"), f"ring{layout.ring}": tirx.Var("ring", "int64")}
        state = {
            spec.name: argument(spec.name, tuple(symbols.get(dim, dim) for dim in spec.shape), spec.dtype)
            for spec in layout.tensors()
        }
        return cls(layout, length, new_len, page_table, state)

    def tokens(self, buffer: Buffer, b: Expr) -> Expr:
        """`length` or `new_len` of sequence `b` as int64."""
        return let(tirx.Cast("int64", buffer[b]))

    def after_sinks(self, length: Expr) -> Expr:
        return let(maximum(length - self.layout.sinks, i64(0)))

    def coded(self, length: Expr) -> Expr:
        """`CacheLayout.coded` of a length that is known at run time."""
        after = self.after_sinks(length)
        if self.layout.recent == 0:
            return after
        page = self.layout.page
        return let(tirx.floordiv(maximum(after - self.layout.recent, i64(0)), i64(page)) * page)

    def pages(self, tokens: Expr) -> Expr:
        """Pages that `tokens` tokens touch."""
        return let(tirx.floordiv(tokens + (self.layout.page - 1), i64(self.layout.page)))

    def place(self, b: Expr, page: Expr) -> tuple[Expr, ...]:
        """Where coded page `page` of sequence `b` lies: the first indices of the tensors of codes and scales."""
        if self.layout.ring:
            return b, let(tirx.floormod(page, self.ring))
        return (let(tirx.Cast("int64", self.page_table[b, page])),)

    @property
    def ring(self) -> Expr:
        """Slots of the ring of coded pages, where there is one."""
        return self.state["k_codes"].shape[1]

    def ring_page(self, page: Expr) -> Expr:
        """The page of the tail in which tokens of page `page` lie."""
        return let(tirx.floormod(page, i64(self.layout.tail_pages)))
