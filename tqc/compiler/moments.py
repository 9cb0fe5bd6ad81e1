"""Second moments of a layer's queries, keys and values over a text: what a calibrated basis and a plan are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Moments:
    """Per KV head, float64, over the tokens of a text without the first ones.

    `keys` [Hk, D, D] is the covariance of the keys as the cache sees them, about their mean; `values` [Hk, D, D] the
    second moment of the values; `queries` [Hk, D, D] that of the queries, averaged over tokens and the query heads that
    read the KV head, as they are multiplied with the keys (without the softmax scale); None where the model's file has
    no tensor that holds them.
    """

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray | None = None

    @property
    def key_norm(self) -> np.ndarray:
        """Root mean square length of the centred keys, [Hk]."""
        return np.sqrt(np.trace(self.keys, axis1=1, axis2=2))

    @property
    def value_norm(self) -> np.ndarray:
        """Root mean square length of the values, [Hk]."""
        return np.sqrt(np.trace(self.values, axis1=1, axis2=2))


def covariance(vectors: np.ndarray) -> np.ndarray:
    """vectors [H, tokens, D] → [H, D, D] about the mean of each head."""
    return second_moment(vectors.astype(np.float64) - vectors.mean(axis=1, keepdims=True, dtype=np.float64))


def second_moment(vectors: np.ndarray) -> np.ndarray:
    """vectors [H, tokens, D] → mean of x·xᵀ, [H, D, D]."""
    vectors = vectors.astype(np.float64)
    return vectors.swapaxes(1, 2) @ vectors / vectors.shape[1]


def grouped(moments: np.ndarray, kv_heads: int) -> np.ndarray:
    """Averages [H, D, D] of query heads over the group of each KV head: [Hk, D, D]."""
    return moments.reshape(kv_heads, -1, *moments.shape[1:]).mean(axis=1)
