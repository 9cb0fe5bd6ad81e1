"""What the codes in a real cache lose, layer by layer, beside theory: distortion, bias, noise of attention logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tqc.artifact import Layer, Manifest
from tqc.codec.form import form
from tqc.errors import TqcError
from tqc.eval.coded_pages import Pair, coded_pages
from tqc.eval.results import LayerResult
from tqc.eval.theory import distortion
from tqc.runtime.session import Session

QUERIES = 64
"""Random queries that each page of keys meets."""


class SideSums:
    """Running sums over the vectors of one side of one layer."""

    def __init__(self) -> None:
        self.vectors = 0
        self.energy = self.lost = self.product = self.noise = 0.0

    def add(self, pair: Pair, queries: np.ndarray) -> None:
        """Adds a page; `queries` [n, head_dim] are unit vectors."""
        exact, coded = (part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (pair.exact, pair.coded))
        error = coded - exact
        self.vectors += len(exact)
        self.energy += float(np.square(exact).sum())
        self.lost += float(np.square(error).sum())
        self.product += float((exact * coded).sum())
        self.noise += float(np.square(error @ queries.T).mean(axis=1).sum())

    @property
    def norm(self) -> float:
        """Root mean square norm of the vectors."""
        return math.sqrt(self.energy / self.vectors)


def measure_layers(
    session: Session,
    ids: Sequence[int],
    *,
    logits: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LayerResult, ...]:
    """Every layer's codes of the text `ids`, compared with the vectors that they stand for.

    Feeds the text to `session` once (one sequence, empty at first) and reads the pages that are coded while it goes.
    Distortions are taken in the cache's basis, with the key mean taken out: an orthogonal basis leaves them as they
    are.
    With `logits`, the noise of attention logits is measured with random queries: real codes of real keys, directions
    uniform on the sphere, of the norm of the layer's keys. An artifact does not show its queries; the law assumes only
    that their directions have nothing to do with the errors of the codes. Raises TqcError if no page is coded.
    """
    sums = [{"k": SideSums(), "v": SideSums()} for _ in session.manifest.layers]
    random = np.random.default_rng(seed)
    for pair in coded_pages(session, ids, progress):
        queries = random.standard_normal((QUERIES, pair.exact.shape[-1]))
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        sums[pair.layer][pair.side].add(pair, queries)
    if not sums[0]["k"].vectors:
        raise TqcError(
            "no page was coded over this text",
            expected=f"at least {shortest(session.manifest)} tokens",
            found=f"{len(ids)} tokens",
            hint="take a longer text (--tokens), or compile with a smaller --recent",
        )
    dtype = session.manifest.cache.exact_dtype
    return tuple(
        _result(number, layer, dtype, sides["k"], sides["v"], logits)
        for number, (layer, sides) in enumerate(zip(session.manifest.layers, sums, strict=True))
    )


def shortest(manifest: Manifest) -> int:
    """Tokens of the shortest text of which a whole page is coded."""
    cache = manifest.cache
    whole = -(-(cache.recent + cache.page) // cache.page) * cache.page
    return cache.sinks + whole


def _result(number: int, layer: Layer, dtype: str, k: SideSums, v: SideSums, logits: bool) -> LayerResult:
    forms = {side: form(getattr(layer, side), layer.head_dim) for side in "kv"}
    measured = {}
    for side, sums in (("k", k), ("v", v)):
        if not (math.isfinite(sums.energy) and math.isfinite(sums.lost)):
            raise TqcError("the cache holds values that are not finite", where=f"layer {number}, {side.upper()}")
        measured |= {f"bits_{side}": forms[side].bits_per_value, f"theory_{side}": distortion(forms[side], dtype)}
        if sums.energy:
            measured |= {f"d_{side}": sums.lost / sums.energy, f"slope_{side}": sums.product / sums.energy}
    if logits:
        query = k.norm
        measured |= {"logit_sd": abs(layer.scale) * query * math.sqrt(k.noise / k.vectors), "query_norm": query}
        measured |= {"queries": "random directions, norm of the keys"}
        noise = query * k.norm * math.sqrt(measured["theory_k"] / layer.head_dim)
        measured["logit_law"] = abs(layer.scale) * noise
    return LayerResult(
        layer=number,
        k=layer.k,
        v=layer.v,
        head_dim=layer.head_dim,
        kv_heads=layer.kv_heads,
        window=layer.window,
        vectors=k.vectors,
        key_norm=k.norm,
        value_norm=v.norm,
        **measured,
    )
