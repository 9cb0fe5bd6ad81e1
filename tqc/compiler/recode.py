"""A compilation's schemes, means and bases as NumPy codecs: for comparing formats without building anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from tqc import codec
from tqc.passes.bases import Bases


def make_recode(
    schemes: Mapping[int, tuple[str, str]],
    means: Mapping[int, np.ndarray],
    bases: Mapping[int, Bases],
) -> Callable[[int, str, np.ndarray], np.ndarray]:
    """(layer, `k` or `v`, vectors [Hk, tokens, D]) → what the cache would give back of them, float32.

    `means[layer]` [Hk, D] is subtracted from keys before they are coded and added afterwards.
    """
    made: dict[tuple, codec.Codec] = {}

    def codec_of(layer: int, side: str, head: int, head_dim: int) -> codec.Codec:
        name = schemes[layer][side == "v"]
        of_layer = bases.get(layer)
        has_matrix = of_layer is not None and of_layer.has(side)
        key = (layer, side, head) if has_matrix else (name, head_dim)
        if key not in made:
            matrix = (of_layer.key if side == "k" else of_layer.value)[head].T if has_matrix else None
            made[key] = codec.get(name, head_dim, matrix=matrix)
        return made[key]

    def recode(layer: int, side: str, vectors: np.ndarray) -> np.ndarray:
        out = np.empty(vectors.shape, np.float32)
        for head, x in enumerate(vectors):
            used = codec_of(layer, side, head, x.shape[-1])
            mean = means[layer][head] if side == "k" and layer in means else np.float32(0)
            out[head] = used.decode(used.encode(x - mean)) + mean
        return out

    return recode
