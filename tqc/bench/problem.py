"""What every candidate of a decode step starts from: queries, and keys and values that repeat after some pages.

A cache of 128k tokens would take NumPy minutes to fill, to code and to check. So the vectors repeat after `PERIOD`
tokens: every candidate still reads its whole cache from memory, but only one period is made and coded, and in the
reference a token counts as often as it occurs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tqc.errors import TqcError

PAGES, PAGE = 31, 64
PERIOD = PAGES * PAGE
"""Tokens after which the vectors repeat. No power of two, so that a page mistaken for one a power of two further on is
another page."""


@dataclass(frozen=True)
class Geometry:
    """Heads of one attention layer, as in `32x8x128`: query heads, KV heads, head_dim."""

    heads: int
    kv_heads: int
    dim: int

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.dim) < 1 or self.heads % self.kv_heads:
            raise TqcError(
                "These heads are no attention layer",
                expected="query heads that are a multiple of the KV heads, all of them 1 or more",
                found=str(self),
            )

    @classmethod
    def parse(cls, text: str) -> Geometry:
        """Raises TqcError for anything else than three numbers with x or : between them."""
        if match := re.fullmatch(r"\s*(\d+)[x:](\d+)[x:](\d+)\s*", text):
            return cls(*map(int, match.groups()))
        raise TqcError("Heads are not understood", expected="query heads x KV heads x head_dim, 32x8x128", found=text)

    def __str__(self) -> str:
        return f"{self.heads}x{self.kv_heads}x{self.dim}"


@dataclass(frozen=True)
class Problem:
    """One decode step: `batch` sequences of `context` tokens each, the new one included."""

    geometry: Geometry
    batch: int
    context: int
    seed: int = 0

    @property
    def scale(self) -> float:
        """Of the scores, before the softmax."""
        return self.geometry.dim**-0.5

    @property
    def values(self) -> int:
        """Numbers of K and V together, all sequences."""
        return 2 * self.batch * self.geometry.kv_heads * self.context * self.geometry.dim

    @cached_property
    def q(self) -> np.ndarray:
        """float32 [batch, heads, dim], and float16 numbers all of them."""
        return self._numbers(0, self.batch, self.geometry.heads)

    @cached_property
    def k(self) -> np.ndarray:
        """One period of the keys of every sequence: float32 [kv_heads, PERIOD, dim], float16 numbers all of them."""
        return self._numbers(1, self.geometry.kv_heads, PERIOD)

    @cached_property
    def v(self) -> np.ndarray:
        """One period of the values, as `k`."""
        return self._numbers(2, self.geometry.kv_heads, PERIOD)

    def _numbers(self, stream: int, *shape: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, stream])
        made = rng.standard_normal((*shape, self.geometry.dim), np.float32)
        return made.astype(np.float16).astype(np.float32)

    def all_of(self, side: str, dtype: str = "float32") -> np.ndarray:
        """Keys ("k") or values ("v") of every token of one sequence: [kv_heads, context, dim]."""
        return np.take(getattr(self, side).astype(dtype), np.arange(self.context) % PERIOD, axis=1)

    def counts(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """How often each token of a period occurs at positions `start` … `stop` − 1 (the context): int64 [PERIOD]."""
        stop = self.context if stop is None else stop
        return np.bincount(np.arange(start, max(start, stop)) % PERIOD, minlength=PERIOD)

    @cached_property
    def exact(self) -> np.ndarray:
        """The attention of all queries over exact vectors: float64 [batch, heads, dim]."""
        return attention(self.q, self.k, self.v, self.counts(), self.scale)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, counts: np.ndarray, scale: float) -> np.ndarray:
    """softmax(scale·q·kᵀ)·v in float64, token t counted counts[t] times.

    q [batch, heads, rows of k], k [kv_heads, tokens, rows], v [kv_heads, tokens, rows of v], counts [tokens] → [batch,
    heads, rows of v].
    """
    seen = counts > 0
    k, v, counts = k[:, seen].astype(np.float64), v[:, seen].astype(np.float64), counts[seen]
    groups = q.astype(np.float64).reshape(len(q), len(k), -1, q.shape[-1])
    scores = groups @ k.swapaxes(1, 2) * scale
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True)) * counts
    y = weights @ v / weights.sum(axis=-1, keepdims=True)
    return y.reshape(len(q), -1, v.shape[-1])


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest ‖found − wanted‖ / ‖wanted‖ of all heads; infinite if a number is not finite or none was written."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    off = np.linalg.norm(found.astype(np.float64) - wanted, axis=-1)
    return float((off / np.linalg.norm(wanted, axis=-1)).max())
