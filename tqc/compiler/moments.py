"""Second moments of a layer's queries, keys and values over a text: what a calibrated basis and a plan are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Sample:
    """A layer's tensors over the whole text: keys and values [Hk, S, D], queries [H, S, D] as they meet the keys,
    residual [S, N], the residual stream with the attention added; None where the model's file has no such tensor."""

    keys: np.ndarray
    values: np.ndarray
    queries: np.ndarray | None = None
    residual: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments per KV head about 0, float64 [Hk, D, D], over the positions of a long sequence.

    `keys` as the cache would see them if they were not centred; `values`; `queries` averaged over tokens and the query
    heads that read the KV head, as they are multiplied with the keys (without the softmax scale), None where the
    model's file has no tensor that holds them. `mean` [Hk, D] is that of the keys.
    """

    keys: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    queries: np.ndarray | None = None

    @property
    def centred_keys(self) -> np.ndarray:
        """The covariance of the keys."""
        return self.keys - self.mean[:, :, None] * self.mean[:, None, :]


def second_moment(vectors: np.ndarray) -> np.ndarray:
    """vectors [H, tokens, D] → mean of x·xᵀ, [H, D, D]."""
    vectors = vectors.astype(np.float64)
    return vectors.swapaxes(1, 2) @ vectors / vectors.shape[1]


def grouped(moments: np.ndarray, kv_heads: int) -> np.ndarray:
    """Averages [H, D, D] of query heads over the group of each KV head: [Hk, D, D]."""
    return moments.reshape(kv_heads, -1, *moments.shape[1:]).mean(axis=1)
