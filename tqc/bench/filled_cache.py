"""A cache in tqc's layout that holds a problem's vectors, and what attention over it must give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import ml_dtypes
import numpy as np

from tqc.codec import fragments, rotation, sketch
from tqc.codec.layout import CacheLayout
from tqc.codec.page_codec import decode_page, encode_page

from .problem import PAGES, PERIOD, Problem, attention

Turns = tuple[tuple[str, tuple[int, int]], ...]
"""What a kernel rotates itself: (side, (seed, rounds)), side q or y."""


@dataclass(frozen=True)
class FilledCache:
    """The cache of `problem` in `layout`, for a kernel that rotates what `turns` says.

    The period's vectors are taken for vectors in the cache's basis. Every sequence holds the same tokens in memory of
    its own; the arrays here are those of one sequence.
    """

    problem: Problem
    layout: CacheLayout
    turns: Turns = ()

    @property
    def pages(self) -> int:
        """Pages of one sequence."""
        return max(1, -(-(self.problem.context - self.layout.sinks) // self.layout.page))

    @property
    def coded(self) -> int:
        """Tokens of one sequence that are held as codes; a page of them repeats after `PAGES` pages."""
        return self.layout.coded(self.problem.context)

    @cached_property
    def page_table(self) -> np.ndarray:
        """int32 [batch, pages], sequence after sequence."""
        count = self.problem.batch * self.pages
        return np.arange(count, dtype=np.int32).reshape(self.problem.batch, self.pages)

    @cached_property
    def _positions(self) -> np.ndarray:
        """Which token of the period lies at each place of a period of pages."""
        return (self.layout.sinks + np.arange(PERIOD)) % PERIOD

    @cached_property
    def _coded_period(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Elements [PAGES, kv_heads, units] and scales of each side."""
        layout, made = self.layout, {}
        for side in "kv":
            vectors = getattr(self.problem, side)[:, self._positions]
            pages = vectors.reshape(layout.kv_heads, PAGES, layout.page, layout.head_dim).swapaxes(0, 1)
            made[side] = encode_page(layout.form(side), side, pages, order=layout.order)
        return made

    @cached_property
    def state(self) -> dict[str, np.ndarray]:
        """The state tensors of one sequence, in the order in which kernels take them."""
        layout, made = self.layout, {}
        coded_pages = -(-self.coded // layout.page)
        for spec in layout.tensors():
            sizes = {"batch": 1, "pages": self.pages}
            shape = [sizes.get(size, size) for size in spec.shape]
            dtype = ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype
            made[spec.name] = np.zeros(shape, dtype)
            side = spec.name[0]
            if spec.name.endswith(("codes", "scale")):
                period = self._coded_period[side][spec.name.endswith("scale")]
                made[spec.name][:coded_pages] = period[np.arange(coded_pages) % PAGES]
        for side in "kv":
            self._fill_exact(made, side)
        return made

    def _fill_exact(self, state: dict[str, np.ndarray], side: str) -> None:
        """Sinks, and the tokens that are not coded yet, at their places in the ring of pages."""
        layout, context = self.layout, self.problem.context
        if layout.sinks:
            region = np.zeros((layout.kv_heads, layout.sink_slots, layout.head_dim), np.float32)
            count = min(layout.sinks, context)
            region[:, :count] = getattr(self.problem, side)[:, np.arange(count)]
            state[f"sink_{side}"][0] = self._stored(region, side)
        ring = np.zeros((layout.kv_heads, layout.tail_pages, layout.page, layout.head_dim), np.float32)
        after = np.arange(self.coded, max(self.coded, context - layout.sinks))
        page, offset = np.divmod(after, layout.page)
        ring[:, page % layout.tail_pages, offset] = getattr(self.problem, side)[:, (layout.sinks + after) % PERIOD]
        state[f"tail_{side}"][0] = self._stored(ring, side)

    def _stored(self, vectors: np.ndarray, side: str) -> np.ndarray:
        """Exact vectors [..., tokens, head_dim] as the layout stores them."""
        if self.layout.order == "fragments":
            return fragments.pack_exact(vectors, side)
        return vectors.swapaxes(-1, -2) if side == "k" else vectors

    @property
    def bytes_read(self) -> int:
        """What one decode step has to read of all sequences' caches: codes, scales, and exact tokens."""
        layout = self.layout
        per_token = sum(layout.form(side).bytes_per_vector for side in "kv")
        exact = 2 * layout.head_dim * {"float32": 4, "float16": 2}[layout.exact_dtype]
        tokens = math.ceil(self.coded * per_token) + (self.problem.context - self.coded) * exact
        return self.problem.batch * layout.kv_heads * tokens

    @property
    def bytes_held(self) -> int:
        """What the state of all sequences takes in memory, without making it."""
        sizes = {"batch": 1, "pages": self.pages}
        widths = {"float32": 4, "uint32": 4, "uint8": 1}
        return self.problem.batch * sum(
            math.prod(sizes.get(size, size) for size in spec.shape) * widths.get(spec.dtype, 2)
            for spec in self.layout.tensors()
        )

    @property
    def query(self) -> np.ndarray:
        """What the kernel is given: float32 [batch, heads, 1, rows], not rotated if it does that itself."""
        q = self.problem.q if dict(self.turns).get("q") else self._query
        return q[:, :, None]

    @property
    def _query(self) -> np.ndarray:
        """The queries that meet the codes: rotated, sketches behind them."""
        turn = dict(self.turns).get("q")
        q = rotation.rotate(self.problem.q, *turn) if turn else self.problem.q
        return np.concatenate([q, sketch.project(q, self.layout.form("k"))], axis=-1)

    @cached_property
    def wanted(self) -> np.ndarray:
        """What the kernel has to write: float64 [batch, heads, rows]."""
        layout, problem = self.layout, self.problem
        exact = problem.counts(0, layout.sinks) + problem.counts(layout.sinks + self.coded)
        held = [np.concatenate([self._exact(side), self._decoded(side)], axis=1) for side in "kv"]
        coded = problem.counts(layout.sinks, layout.sinks + self.coded)
        y = attention(self._query, *held, np.concatenate([exact, coded[self._positions]]), problem.scale)
        turn = dict(self.turns).get("y")
        return rotation.unrotate(y, *turn) if turn else y

    def _exact(self, side: str) -> np.ndarray:
        """The period as exact tokens hold it, [kv_heads, PERIOD, rows]: zeros in the rows of sketches."""
        form = self.layout.form(side)
        vectors = getattr(self.problem, side).astype(self.layout.exact_dtype).astype(np.float32)
        return np.pad(vectors, [(0, 0), (0, 0), (0, form.sketch_rows)])

    def _decoded(self, side: str) -> np.ndarray:
        """What a period of codes stands for, in the order of its pages: [kv_heads, PERIOD, rows]."""
        layout = self.layout
        pages = decode_page(layout.form(side), side, *self._coded_period[side], layout.page, layout.order)
        return pages.swapaxes(0, 1).reshape(layout.kv_heads, PERIOD, -1)


def repeated(array: np.ndarray, batch: int) -> np.ndarray:
    """A state tensor of one sequence for `batch` of them: its first axis that often."""
    return np.concatenate([array] * batch) if batch > 1 else array


def names(layout: CacheLayout) -> Sequence[str]:
    """The state tensors of a layout, in order."""
    return [spec.name for spec in layout.tensors()]
