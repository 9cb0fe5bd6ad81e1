"""The cache of one attention layer: which tensors it has, their shapes, and where a token lives.

Three regions hold a sequence. Positions `0 … sinks−1` are the sinks, exact. The rest, counted from `t = 0`, is cut into
pages of `page` tokens; the older pages are held as codes, the newest `recent … recent + page` tokens exactly, in a ring
of pages called the tail. Which page is coded follows from the length alone (`coded`), so nothing else is stored.

Coded pages of layers that see every token lie in a pool, where the session's page table says. A layer with a sliding
window keeps a ring of coded pages for each sequence instead, page p in slot `p mod ring`: older ones are never seen.

Exact tensors put tokens where a vector register wants its lanes: K token-minor, V dim-minor.

Codes are `uint16` units, one band of rows after another (`form`). A code of b bits is cut into planes whose widths are
the powers of two in b, the widest first and holding the lowest bits. In a K page, unit u of a plane of width w holds
rows `u·16/w …` of one token, least significant first, and the units are stored `[unit, token]`; in a V page it holds
tokens `u·16/w …` of one row, stored `[unit, row]`. Scale number s of token t is element `s·page + t`.

PolarQuant packs angles along tokens on both sides: first the 4-bit ones of level 1, `[angle, page/4]`, then the 2-bit
ones of levels 2, 3 and 4, `[angle, page/8]`; its scales are the radii, number b that of dims `16·b …`.

An exact scheme stores its values instead, K as `[dim, token]`, V as `[token, dim]`.

This is the order `lanes`, that of CPUs. Kernels on tensor cores have `fragments` instead (`tqc.codec.fragments`): codes
are uint32 words and pages of 64 tokens, exact tensors hold fragments too. PolarQuant's angles keep their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec import fragments
from tqc.codec.form import Form, form
from tqc.errors import TargetError

LANES = 16
"""Tokens or dims that one vector operation of the kernels works on; regions are padded to it."""


def planes(bits: int) -> tuple[tuple[int, int], ...]:
    """The planes of a `bits`-bit code as (width, shift) pairs, widest first: 7 → ((4, 0), (2, 4), (1, 6))."""
    cut, shift = [], 0
    for width in (8, 4, 2, 1):
        if bits & width:
            cut.append((width, shift))
            shift += width
    return tuple(cut)


def ring_pages(window: int, recent: int, page: int) -> int:
    """How many of the newest coded pages a query with a sliding window of `window` > 0 tokens can see, at least 1.

    The query that looks back farthest is the newest token itself: a later one, or one of a chunk that is not in the
    cache yet, sees no more. It sees `window` tokens, of which the newest `recent` are never coded. With x = (tokens −
    recent) / page coded pages and the rest, it sees ⌊x⌋ − ⌊x − (window − recent) / page⌋ ≤ ⌈(window − recent) / page⌉
    of them. With `recent = 0` the page being filled counts as well: the pages that `window` tokens in a row can touch.
    """
    if recent == 0:
        return (window + page - 2) // page + 1
    return max(1, -(-(window - recent) // page))


@dataclass(frozen=True)
class TensorSpec:
    """A state tensor; a dimension is a number or a symbol: `batch`, `pages` (of the pool), or `ringN`, the slots of a
    ring, which are N or, where the longest sequence has fewer pages, that many."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class CacheLayout:
    """Geometry and schemes of one layer's cache. `k` and `v` are scheme names, lengths count tokens.

    `ring`: slots for coded pages that each sequence has, at most; 0: coded pages lie in the pool. `order`: that of the
    numbers in a page, `lanes` or `fragments`.
    """

    query_heads: int
    kv_heads: int
    head_dim: int
    k: str = "tq4"
    v: str = "tq4"
    sinks: int = 4
    recent: int = 128
    page: int = 64
    exact_dtype: str = "float32"
    ring: int = 0
    order: str = "lanes"

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.query_heads // self.kv_heads

    @property
    def sink_slots(self) -> int:
        """Sinks padded to whole vectors."""
        return -(-self.sinks // LANES) * LANES

    @property
    def tail_pages(self) -> int:
        """Pages in the ring of exact tokens: it must hold `recent + page − 1` tokens and the start of a page."""
        return (self.recent + 2 * self.page - 2) // self.page

    def coded(self, length: int) -> int:
        """Tokens after the sinks that are held as codes when the sequence has `length` tokens.

        Whole pages leave the exact window once it holds a page more than `recent`. With `recent = 0` every token is
        coded at once; the tail then only stages the page that is being filled.
        """
        after_sinks = max(0, length - self.sinks)
        if self.recent == 0:
            return after_sinks
        return max(0, after_sinks - self.recent) // self.page * self.page

    def check_window(self, window: int) -> None:
        """Raises TargetError if a query with this window (0: none) can see pages that the ring has overwritten."""
        if self.ring and (not window or self.ring < ring_pages(window, self.recent, self.page)):
            needed = f"at least {ring_pages(window, self.recent, self.page)}" if window else "all pages: no ring"
            raise TargetError(
                "the ring of pages is too short for the window",
                where=f"window {window}, {self.recent} recent tokens, pages of {self.page}",
                expected=needed,
                found=f"{self.ring} pages",
            )

    def form(self, side: str) -> Form:
        """What is stored of a vector of `side`, k or v."""
        return form(getattr(self, side), self.head_dim)

    def tensors(self) -> tuple[TensorSpec, ...]:
        """The state tensors in the order in which kernels take them; regions of size 0 are left out."""
        heads, page, specs = self.kv_heads, self.page, []
        if self.sinks:
            specs += [
                TensorSpec("sink_k", ("batch", heads, *self._exact("k", self.sink_slots)), self.exact_dtype),
                TensorSpec("sink_v", ("batch", heads, *self._exact("v", self.sink_slots)), self.exact_dtype),
            ]
        specs += [
            TensorSpec("tail_k", ("batch", heads, self.tail_pages, *self._exact("k", page)), self.exact_dtype),
            TensorSpec("tail_v", ("batch", heads, self.tail_pages, *self._exact("v", page)), self.exact_dtype),
        ]
        pages: tuple[str, ...] = ("batch", f"ring{self.ring}") if self.ring else ("pages",)
        for side in ("k", "v"):
            stored = self.form(side)
            wide = self.order == "fragments" and not stored.exact  # two units are one word
            units, dtype = (stored.units(page) // 2, "uint32") if wide else (stored.units(page), stored.dtype)
            specs.append(TensorSpec(f"{side}_codes", (*pages, heads, units), dtype))
            if stored.scales:
                specs.append(TensorSpec(f"{side}_scale", (*pages, heads, stored.scales * page), stored.scale_dtype))
        return tuple(specs)

    def _exact(self, side: str, tokens: int) -> tuple[int, ...]:
        """The shape of one KV head's exact region of `tokens` tokens, whole vectors."""
        if self.order == "fragments":
            return (tokens * self.head_dim,)
        return (self.head_dim, tokens) if side == "k" else (tokens, self.head_dim)

    def check_order(self) -> None:
        """Raises TargetError if the numbers of a page cannot be put in the layout's order."""
        if self.order not in ("lanes", "fragments"):
            raise TargetError(f"unknown order '{self.order}' of a page", expected="lanes or fragments")
        if self.order == "fragments" and self.page != fragments.TOKENS:
            raise TargetError(
                "this page does not fit the tensor cores",
                where="--page",
                expected=f"{fragments.TOKENS} tokens",
                found=str(self.page),
            )

    def exact_vectors(self, side: str, region: np.ndarray) -> np.ndarray:
        """A region of exact values [..., *numbers of one KV head] as vectors [..., tokens, head_dim]."""
        if self.order == "fragments":
            return fragments.unpack_exact(region, self.head_dim, side)
        return region.swapaxes(-1, -2) if side == "k" else region
