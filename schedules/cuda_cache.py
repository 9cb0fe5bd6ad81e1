"""The cache as a CUDA kernel sees it: its buffers, and the arithmetic of lengths on the device."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import argument, at_least_zero, ceil_div, dimension, i32, i64


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
        page_table = argument("page_table", (batch, dimension("table_pages")), "int32")
        symbols = {"batch": batch, "pages": dimension("pages"), f"ring{layout.ring}": dimension("ring")}
        state = {
            spec.name: argument(spec.name, tuple(symbols.get(dim, dim) for dim in spec.shape), spec.dtype)
            for spec in layout.tensors()
        }
        return cls(layout, length, new_len, page_table, state)

    def after_sinks(self, length: Expr) -> Expr:
        """Tokens after the sinks of a sequence of `length` tokens."""
        return T.Bind(at_least_zero(length - self.layout.sinks))

    def coded(self, length: Expr) -> Expr:
        """`CacheLayout.coded` of a length that only the device knows."""
        after = self.after_sinks(length)
        if self.layout.recent == 0:
            return after
        page = self.layout.page
        return T.Bind(tirx.floordiv(at_least_zero(after - self.layout.recent), i32(page)) * page)

    def pages(self, tokens: Expr) -> Expr:
        """Pages that `tokens` tokens touch."""
        return T.Bind(ceil_div(tokens, self.layout.page))

    def place(self, b: Expr, page: Expr) -> tuple[Expr, ...]:
        """Where coded page `page` of sequence `b` lies: the first indices of the tensors of codes and scales.

        They are int64: the tensors may exceed 2³¹ elements.
        """
        if self.layout.ring:
            return i64(b), T.Bind(tirx.floormod(i64(page), self.ring))
        return (T.Bind(i64(self.page_table[b, page])),)

    @property
    def ring(self) -> Expr:
        """Slots of the ring of coded pages, int64, where there is one."""
        return self.state["k_codes"].shape[1]

    def ring_page(self, page: Expr) -> Expr:
        """The page of the tail in which tokens of page `page` lie."""
        return tirx.floormod(page, i32(self.layout.tail_pages))
