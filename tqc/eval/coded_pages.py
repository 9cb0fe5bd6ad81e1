"""Pages of a session's cache beside the exact vectors they were coded from.

The tail of a cache holds every token exactly, in the basis in which it will be coded, until its page is coded. So a
text is fed page by page, each page is taken from the tail while it is there, and from the codes once they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from tqc.codec.banded import Banded
from tqc.codec.form import form
from tqc.codec.layout import CacheLayout
from tqc.codec.page_codec import Side, decode_page
from tqc.runtime.session import Session


@dataclass(frozen=True)
class Pair:
    """One page of one side ("k" or "v") of a layer: `exact` and `coded` float32 [kv_heads, tokens, head_dim]."""

    layer: int
    side: Side
    exact: np.ndarray
    coded: np.ndarray


def coded_pages(
    session: Session, ids: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> Iterator[Pair]:
    """Feeds `ids` to a session of one sequence, from an empty cache, and yields every page that is coded on the way.

    Tokens that are not coded at the end, the sinks and the recent window, are in no pair. `progress` is called with
    (tokens fed, all). Without a recent window a page's last token is coded before it can be seen, and left out.
    """
    cache = session.manifest.cache
    session.reset()
    waiting: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    seen = 0  # pages that were taken from the codes
    steps = [cache.sinks, *[cache.page] * ((len(ids) - cache.sinks) // cache.page)]
    fed = 0
    for page, count in enumerate(steps, start=-1):
        # Without a window codes are written at once, and a full page is no longer written to the tail.
        parts = (count,) if cache.recent or page < 0 else (count - 1, 1)
        for number, part in enumerate(parts):
            if part:
                session.prefill([int(token) for token in ids[fed : fed + part]])
            fed += part
            if page >= 0 and number == 0:
                waiting[page] = [_exact(session, layer, page, part) for layer in range(len(cache.state))]
                while seen < -(-cache.coded(fed) // cache.page):
                    yield from _pairs(session, seen, waiting.pop(seen))
                    seen += 1
        if progress:
            progress(fed, cache.sinks + sum(steps[1:]))


def _exact(session: Session, layer: int, page: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The first tokens of a page from the tail: keys and values, float32 [kv_heads, tokens, head_dim]."""
    layout = CacheLayout(1, 1, session.manifest.layers[layer].head_dim, order=session.manifest.cache.order)
    found = []
    for side in "kv":
        tail = session.read_state(layer, f"tail_{side}")[0]
        found.append(layout.exact_vectors(side, tail[:, page % tail.shape[1]])[:, :tokens].astype(np.float32))
    return found[0], found[1]


def _pairs(session: Session, page: int, exact: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Pair]:
    for layer, vectors in enumerate(exact):
        for side, wanted in zip("kv", vectors, strict=True):
            yield Pair(layer, side, wanted, _coded(session, layer, side, page)[:, : wanted.shape[1]])


def _coded(session: Session, layer: int, side: Side, page: int) -> np.ndarray:
    """A coded page of the first sequence: float32 [kv_heads, page, head_dim]."""
    place = session.manifest.layers[layer]
    specs = {spec.name: spec for spec in session.manifest.cache.state[layer]}
    stored = {}
    for kind in ("codes", "scale"):
        if spec := specs.get(f"{side}_{kind}"):
            array = session.read_state(layer, spec.name)
            stored[kind] = array[0, page % array.shape[1]] if spec.ring else array[session.page_table[0, page]]
    cache = session.manifest.cache
    return vectors_of_page(
        getattr(place, side), side, place.head_dim, cache.page, stored["codes"], stored.get("scale"), cache.order
    )


def vectors_of_page(
    scheme: str,
    side: Side,
    head_dim: int,
    page: int,
    codes: np.ndarray,
    scale: np.ndarray | None,
    order: str = "lanes",
) -> np.ndarray:
    """The vectors that a page of `page` tokens stands for, in the cache's basis: float32 [kv_heads, page, head_dim].

    `codes` [kv_heads, units] and `scale` [kv_heads, scales·page] as the cache holds them in `order`; bfloat16 as
    uint16. Raises CodecError if they are no page of the scheme.
    """
    stored = form(scheme, head_dim)
    if scale is None:
        scale = np.zeros((len(codes), 0), np.float16)
    if stored.dtype == "bfloat16":
        codes = codes.view(ml_dtypes.bfloat16)
    coded = decode_page(stored, side, codes, scale, page, order)
    return Banded(scheme, head_dim).reconstruct(coded) if stored.sketch_rows else coded
