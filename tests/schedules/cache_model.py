"""What the cache must hold, in NumPy: any kernel's state is checked against the history of raw vectors.

The state after `total` tokens follows from the vectors and the layout alone, however the tokens were appended. Shapes:
histories are [kv_heads, total, head_dim], state arrays as `CacheLayout.tensors` says.
"""

from __future__ import annotations

import numpy as np

from tqc.codec import pages
from tqc.codec.layout import CacheLayout, code_bits
from tqc.codec.lloyd_max import codebook

NEAR_THRESHOLD = 1e-5
SENTINEL = {"float32": 777.0, "float16": 777.0, "uint16": 0xBEEF}


def empty_state(layout: CacheLayout, batch: int, pool_pages: int) -> dict[str, np.ndarray]:
    """State arrays filled with a sentinel, which stands for memory nobody has written."""
    symbols = {"batch": batch, "pages": pool_pages, f"ring{layout.ring}": layout.ring}
    return {
        spec.name: np.full([symbols.get(dim, dim) for dim in spec.shape], SENTINEL[spec.dtype], spec.dtype)
        for spec in layout.tensors()
    }


def random_state(layout: CacheLayout, batch: int, pool_pages: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """State arrays full of any codes and vectors: what they hold is what `read` says."""
    state = empty_state(layout, batch, pool_pages)
    for name, array in state.items():
        if array.dtype == np.uint16:
            array[...] = rng.integers(0, 2**16, array.shape)
        else:
            array[...] = (
                rng.uniform(0.5, 2, array.shape) if name.endswith("scale") else rng.standard_normal(array.shape)
            )
    return state


def coded_pages(layout: CacheLayout, state: dict[str, np.ndarray], total: int) -> range:
    """The pages of a sequence of `total` tokens that are held as codes: all, or the newest that fill the ring."""
    pages = range(-(-layout.coded(total) // layout.page))
    return pages[-state["k_codes"].shape[1] :] if layout.ring else pages


def place(layout: CacheLayout, state: dict[str, np.ndarray], table: np.ndarray, b: int, page: int) -> tuple[int, ...]:
    """Where a page of sequence `b` lies in the tensors of codes and scales."""
    return (b, page % state["k_codes"].shape[1]) if layout.ring else (int(table[page]),)


def coded_vectors(layout: CacheLayout, state: dict[str, np.ndarray], side: str, at: tuple[int, ...]) -> np.ndarray:
    """The values of the page at a `place`: float32 [kv_heads, page, head_dim]."""
    scheme = getattr(layout, side)
    stored = state[f"{side}_codes"][at]
    bits = code_bits(scheme)
    if not bits:
        rows = (layout.head_dim, layout.page) if side == "k" else (layout.page, layout.head_dim)
        values = stored.astype(np.float32).reshape(layout.kv_heads, *rows)
        return values.swapaxes(1, 2) if side == "k" else values
    unpack = pages.unpack_k if side == "k" else pages.unpack_v
    codes = unpack(stored, bits, layout.head_dim)
    scale = state[f"{side}_scale"][at].astype(np.float32)
    return codebook(bits, layout.head_dim).centroids[codes] * scale[..., None]


def read(
    layout: CacheLayout, state: dict[str, np.ndarray], table: np.ndarray, b: int, total: int, side: str
) -> np.ndarray:
    """What the cache of sequence `b` holds: float32 [kv_heads, total, head_dim]; `table` is its page table row.

    NaN for tokens that a ring of pages has let go: an attention that sees one is NaN too.
    """
    out = np.full((layout.kv_heads, total, layout.head_dim), np.nan, np.float32)
    for p in range(total):
        t = p - layout.sinks
        page, offset = divmod(t, layout.page)
        if t < 0:
            sinks = state[f"sink_{side}"][b]
            out[:, p] = sinks[:, :, p] if side == "k" else sinks[:, p]
        elif t >= layout.coded(total):
            tail = state[f"tail_{side}"][b][:, page % layout.tail_pages]
            out[:, p] = tail[:, :, offset] if side == "k" else tail[:, offset]
    for page in coded_pages(layout, state, total):
        first = layout.sinks + page * layout.page
        last = min(first + layout.page, layout.sinks + layout.coded(total))
        out[:, first:last] = coded_vectors(layout, state, side, place(layout, state, table, b, page))[:, : last - first]
    return out


def check_state(
    layout: CacheLayout, state: dict[str, np.ndarray], table: np.ndarray, b: int, history: np.ndarray, side: str
) -> None:
    """Asserts that the cache of sequence `b` holds `history`: exact tokens exactly, codes as the codec makes them."""
    total = history.shape[1]
    held = read(layout, state, table, b, total, side)
    exact = np.ones(total, bool)
    exact[layout.sinks : layout.sinks + layout.coded(total)] = False
    oldest = min(coded_pages(layout, state, total), default=0) * layout.page
    coded = slice(layout.sinks + oldest, layout.sinks + layout.coded(total))
    np.testing.assert_array_equal(held[:, exact], history[:, exact].astype(layout.exact_dtype))
    scheme = getattr(layout, side)
    wanted = history[:, coded].astype(np.float64)
    if not code_bits(scheme):
        np.testing.assert_array_equal(held[:, coded], wanted.astype(state[f"{side}_codes"].dtype))
        return
    book = codebook(code_bits(scheme), layout.head_dim)
    norm = np.linalg.norm(wanted, axis=-1, keepdims=True)
    unit = wanted / norm
    distance = np.abs(unit[..., None] - book.thresholds).min(axis=-1)
    image = book.centroids[(unit[..., None] > book.thresholds).sum(axis=-1)].astype(np.float64)
    scale = norm / (unit * image).sum(axis=-1, keepdims=True)
    off = np.abs(held[:, coded] - image * scale) > 2e-3 * np.abs(image * scale)
    assert not (off & (distance > NEAR_THRESHOLD)).any()
    assert off.sum() <= 1e-3 * off.size


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    start: int,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    sink_logits: np.ndarray | None = None,
) -> np.ndarray:
    """Causal attention of q [query_heads, S, D], first query at position `start`, over k, v [kv_heads, tokens, D].

    `sink_logits` [query_heads] join the denominator: y = Σ exp(s_j) v_j / (Σ exp(s_j) + exp(sink)).
    """
    group = q.shape[0] // k.shape[0]
    k, v = (np.repeat(x.astype(np.float64), group, axis=0) for x in (k, v))
    scores = np.einsum("hsd,htd->hst", q.astype(np.float64), k) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    query, key = start + np.arange(q.shape[1])[:, None], np.arange(k.shape[1])
    seen = key <= query
    if window:
        seen &= key > query - window
    scores = np.where(seen, scores, -np.inf)
    sink = np.full(q.shape[0], -np.inf) if sink_logits is None else sink_logits.astype(np.float64)
    sink = np.broadcast_to(sink[:, None, None], (*q.shape[:2], 1))
    top = np.maximum(scores.max(axis=-1, keepdims=True), sink)
    weights, mass = np.exp(scores - top), np.exp(sink - top)
    # A token that is not seen must not matter, whatever it holds.
    out = np.einsum("hst,htd->hsd", weights / (weights.sum(axis=-1, keepdims=True) + mass), np.where(np.isnan(v), 0, v))
    unseen_nan = np.einsum("st,htd->hsd", seen.astype(float), np.isnan(v).astype(float)) > 0
    return np.where(unseen_nan, np.nan, out)
