"""The variations of `ablations.py`: one thing changed at a time, and the NumPy codecs that do it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

BANDS = "16@5/16@3/32@2"


@dataclass(frozen=True)
class Variation:
    """One row of a table.

    `k`, `v`: schemes, or tcq1 … tcq4 for trellis codes. `mean`: what is subtracted from keys, `basis`: what bands are
    made from; both name one of `Sources`, or: mean none; mean page (of the first coded page of the sequence); basis
    identity. `base` is the row with which `ratio` compares.
    """

    topic: str
    name: str
    base: str = "tq3"
    k: str = "tq3"
    v: str = "tq3"
    mean: str = "text"
    basis: str = "text"
    centre_values: bool = False
    scalar: str | None = None
    seed: int = 0
    rounds: int = 1
    sinks: int = 4
    recent: int = 128

    def scheme(self, side: str) -> str:
        """That of `k` or `v`."""
        return getattr(self, side)

    def codec(self, side: str, head_dim: int, matrix: np.ndarray | None = None) -> Any:
        """The codec of a side; `matrix`: the left factor of bands."""
        from tqc import codec
        from tqc.eval.trellis import Trellis

        if trellis := re.fullmatch(r"tcq(\d)", self.scheme(side)):
            return Trellis(int(trellis[1]), head_dim, self.seed)
        return codec.get(self.scheme(side), head_dim, self.seed, self.scalar, rounds=self.rounds, matrix=matrix)

    def has_matrix(self, side: str) -> bool:
        """Whether vectors of `side` enter the cache in a basis of their KV head."""
        from tqc.codec.scheme import is_bands

        return is_bands(self.scheme(side))

    def bits_per_value(self, layers: Mapping[int, Any]) -> float:
        """Mean bits of a coded number, scales included, over the keys and values of all layers."""
        bits = values = 0.0
        for layer in layers.values():
            size = layer.kv_heads * layer.head_dim
            bits += sum(size * self.codec(side, layer.head_dim).bits_per_value for side in "kv")
            values += 2 * size
        return bits / values


_ROWS = (
    Variation("Key mean", "tq3"),
    Variation("Key mean", "no mean", mean="none"),
    Variation("Key mean", "mean after RoPE", mean="after"),
    Variation("Key mean", "mean of the model's own text", mean="generated"),
    Variation("Key mean", "mean of the sequence's first coded page", mean="page"),
    Variation("Key mean", "values centred too", centre_values=True),
    Variation("Rotation", "seed 1", seed=1),
    Variation("Rotation", "seed 2", seed=2),
    Variation("Rotation", "two rounds", rounds=2),
    Variation("Rotation", "none", k="64@3", v="64@3", basis="identity"),
    Variation("Stored scalar", "plain", scalar="plain"),
    Variation("Stored scalar", "norm", scalar="norm"),
    Variation("Basis of the keys", "balanced (64@3)", k="64@3"),
    Variation("Basis of the keys", f"bands ({BANDS})", k=BANDS),
    Variation("Basis of the keys", "bands, one scale (16@5+16@3+32@2)", k=BANDS.replace("/", "+")),
    Variation("Basis of the keys", "bands, statistics after RoPE", k=BANDS, basis="after"),
    Variation("Basis of the keys", "bands, longer text of the same kind", k=BANDS, mean="longer", basis="longer"),
    Variation("Basis of the keys", "fewer bits in two bands (16@4/48@2)", k="16@4/48@2"),
    Variation("Basis of the keys", "bands, one of 1 bit (16@5/32@3/16@1)", k="16@5/32@3/16@1"),
    Variation("Basis of the keys", "bands, one of 0 bits (16@6/32@3/16@0)", k="16@6/32@3/16@0"),
    Variation("Basis of the values", "balanced values (64@3)", v="64@3"),
    Variation("Basis of the values", f"bands of values ({BANDS})", v=BANDS),
    Variation("Exact tokens", "no sinks", sinks=0),
    Variation("Exact tokens", "no window", recent=0),
    Variation("Trellis codes", "tq2", k="tq2", v="tq2"),
    Variation("Trellis codes", "trellis, 2 bits", base="tq2", k="tcq2", v="tcq2"),
    Variation("Trellis codes", "trellis, 3 bits", k="tcq3", v="tcq3"),
)

REPEATED = (
    *("no mean", "mean after RoPE", "mean of the model's own text", "values centred too"),
    *("norm", "balanced (64@3)", f"bands ({BANDS})"),
)
"""Rows that are measured with another rotation too, to tell what they do from what its luck does."""

VARIATIONS = (
    *_ROWS,
    *(
        replace(row, topic="Again with seed 1", name=f"{row.name}, seed 1", base="seed 1", seed=1)
        for row in _ROWS
        if row.name in REPEATED
    ),
)
"""In the order of the tables. What is not said is the first row: tq3 for both, keys centred, 4 sinks, 128 newest.

Bands are those of head_dim 64.
"""


def make_recode(variation: Variation, model: Any, sources: Any) -> Callable[[int, str, np.ndarray], np.ndarray]:
    """What a `RecodedSession` passes pages through, made for one sequence: the mean of its first page is kept.

    `model` is pareto's `Model`, `sources` as in `sources.py`.
    """
    means = _key_means(variation, model, sources)
    value_means = sources.value_means if variation.centre_values else {}
    matrices = {side: _matrices(variation, side, model, sources) for side in "kv"}
    made: dict[tuple, Any] = {}

    def mean_of(layer: int, side: str, vectors: np.ndarray) -> np.ndarray:
        if side == "k" and variation.mean == "page":
            means.setdefault(layer, vectors.mean(axis=1))
        mean = (means if side == "k" else value_means).get(layer)
        return np.zeros((1, 1, 1), np.float32) if mean is None else mean[:, None]

    def codec_of(layer: int, side: str, head: int, head_dim: int) -> Any:
        key = (layer, side, head) if matrices[side] else (side, head_dim)
        if key not in made:
            made[key] = variation.codec(side, head_dim, matrices[side][layer][head] if matrices[side] else None)
        return made[key]

    def recode(layer: int, side: str, vectors: np.ndarray) -> np.ndarray:
        mean = mean_of(layer, side, vectors)
        rest, head_dim = vectors - mean, vectors.shape[-1]
        if not matrices[side]:
            used = codec_of(layer, side, 0, head_dim)
            return used.decode(used.encode(rest)) + mean
        codecs = [codec_of(layer, side, head, head_dim) for head in range(len(rest))]
        return np.stack([used.decode(used.encode(x)) for used, x in zip(codecs, rest, strict=True)]) + mean

    return recode


def _key_means(variation: Variation, model: Any, sources: Any) -> dict[int, np.ndarray]:
    from tqc.compiler.choose import centred_layers

    if variation.mean in ("none", "page"):
        return {}
    means = sources.get(variation.mean).means
    return {layer: means[layer] for layer in centred_layers(model.options, model.imported)}


def _matrices(variation: Variation, side: str, model: Any, sources: Any) -> dict[int, np.ndarray]:
    """Left factors [Hk, D, D] of every layer; empty where the scheme has no basis of its own."""
    from tqc.compiler.basis import bases_of
    from tqc.compiler.choose import centred_layers, outputs_of

    if not variation.has_matrix(side):
        return {}
    if variation.basis == "identity":
        return {
            n: np.broadcast_to(np.eye(x.head_dim), (x.kv_heads, *2 * (x.head_dim,))) for n, x in model.layers.items()
        }
    schemes = dict.fromkeys(model.layers, (variation.k, variation.v))
    dims = {layer: x.head_dim for layer, x in model.layers.items()}
    moments = sources.get(variation.basis).moments
    centred = set() if variation.mean == "none" else centred_layers(model.options, model.imported)
    bases = bases_of(schemes, dims, moments, centred, outputs_of(model.imported), variation.seed)
    return {n: (found.key if side == "k" else found.value).swapaxes(1, 2) for n, found in bases.items()}
