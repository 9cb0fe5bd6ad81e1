"""Prefill over a filled cache: a chunk of new tokens, and what attention of some of its queries must give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tqc.bench.filled_cache import FilledCache
from tqc.bench.problem import attention
from tqc.codec import sketch


@dataclass(frozen=True)
class Chunk(FilledCache):
    """`tokens` new tokens behind the `problem.context` that the cache holds, the same for every sequence, all vectors
    in the cache's basis already. All of its numbers are float16 numbers."""

    tokens: int = 512

    @property
    def checked(self) -> list[int]:
        """The queries that are compared: the first sees none of the others, the last all of them."""
        return sorted({0, self.tokens // 2, self.tokens - 1})

    @cached_property
    def queries(self) -> np.ndarray:
        """float32 [batch, heads, tokens, rows], sketches behind."""
        layout = self.layout
        q = self._numbers(0, self.problem.batch, layout.query_heads)
        return np.concatenate([q, sketch.project(q, layout.form("k"))], axis=-1)

    @cached_property
    def fresh(self) -> dict[str, np.ndarray]:
        """Keys "k" and values "v" of the chunk: float32 [kv_heads, tokens, head_dim]."""
        return {side: self._numbers(1 + number, self.layout.kv_heads) for number, side in enumerate("kv")}

    @cached_property
    def wanted(self) -> np.ndarray:
        """Of the queries `checked`: float64 [batch, heads, checked, rows]."""
        problem, layout = self.problem, self.layout
        exact = problem.counts(0, layout.sinks) + problem.counts(layout.sinks + self.coded)
        coded = problem.counts(layout.sinks, layout.sinks + self.coded)[self._positions]
        held = {side: np.concatenate([self._exact(side), self._decoded(side)], axis=1) for side in "kv"}

        def one(query: int) -> np.ndarray:
            k, v = (np.concatenate([held[side], self._seen(side, query)], axis=1) for side in "kv")
            counts = np.concatenate([exact, coded, np.ones(query + 1, np.int64)])
            return attention(self.queries[:, :, query], k, v, counts, problem.scale)

        return np.stack([one(query) for query in self.checked], axis=2)

    def _seen(self, side: str, query: int) -> np.ndarray:
        """The new tokens that a query sees, zeros in the rows of sketches."""
        vectors = self.fresh[side][:, : query + 1]
        return np.pad(vectors, [(0, 0), (0, 0), (0, self.layout.form(side).sketch_rows)])

    def _numbers(self, stream: int, *shape: int) -> np.ndarray:
        rng = np.random.default_rng([self.problem.seed, 16 + stream])
        made = rng.standard_normal((*shape, self.tokens, self.layout.head_dim), np.float32)
        return made.astype(np.float16).astype(np.float32)
