"""What the cache must hold, in NumPy: any kernel's state is checked against the history of raw vectors.

The state after `total` tokens follows from the vectors and the layout alone, however the tokens were appended. Shapes:
histories are [kv_heads, total, head_dim], what the cache holds [kv_heads, total, rows of the coded vector], state
arrays as `CacheLayout.tensors` says.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tqc.codec import short_scale
from tqc.codec.form import Form
from tqc.codec.fragments import scale_order
from tqc.codec.layout import CacheLayout
from tqc.codec.page_codec import decode_page, encode_page

NEAR_THRESHOLD = 1e-5
SENTINEL = {
    "float32": 777.0,
    "float16": 777.0,
    "bfloat16": 777.0,
    "uint16": 0xBEEF,
    "uint32": 0xDEADBEEF,
    "uint8": 0x97,
}


def numpy_type(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def empty_state(layout: CacheLayout, batch: int, pool_pages: int) -> dict[str, np.ndarray]:
    """State arrays filled with a sentinel, which stands for memory nobody has written."""
    symbols = {"batch": batch, "pages": pool_pages, f"ring{layout.ring}": layout.ring}
    return {
        spec.name: np.full([symbols.get(dim, dim) for dim in spec.shape], SENTINEL[spec.dtype], numpy_type(spec.dtype))
        for spec in layout.tensors()
    }


def random_state(layout: CacheLayout, batch: int, pool_pages: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """State arrays full of any codes and vectors: what they hold is what `read` says. Coded vectors are about as
    long as exact ones, so that attention sees both."""
    state = empty_state(layout, batch, pool_pages)
    for name, array in state.items():
        if array.dtype in (np.uint16, np.uint32):
            array[...] = rng.integers(0, np.iinfo(array.dtype).max, array.shape, array.dtype, endpoint=True)
        elif name.endswith("scale"):
            scales = rng.uniform(0.25, 0.75, array.shape) * layout.head_dim**0.5
            array[...] = short_scale.encode(scales) if array.dtype == np.uint8 else scales
        else:
            array[...] = rng.standard_normal(array.shape)
    return state


def coded_pages(layout: CacheLayout, state: dict[str, np.ndarray], total: int) -> range:
    """The pages of a sequence of `total` tokens that are held as codes: all, or the newest that fill the ring."""
    pages = range(-(-layout.coded(total) // layout.page))
    return pages[-state["k_codes"].shape[1] :] if layout.ring else pages


def place(layout: CacheLayout, state: dict[str, np.ndarray], table: np.ndarray, b: int, page: int) -> tuple[int, ...]:
    """Where a page of sequence `b` lies in the tensors of codes and scales."""
    return (b, page % state["k_codes"].shape[1]) if layout.ring else (int(table[page]),)


def coded_vectors(layout: CacheLayout, state: dict[str, np.ndarray], side: str, at: tuple[int, ...]) -> np.ndarray:
    """The page at a `place`: float32 [kv_heads, page, rows]; a token is NaN if any of its scales is."""
    form = layout.form(side)
    elements = state[f"{side}_codes"][at]
    scales = state[f"{side}_scale"][at] if form.scales else np.zeros((layout.kv_heads, 0), np.float16)
    vectors = decode_page(form, side, elements, scales, layout.page, layout.order)
    scales = short_scale.decode(scales) if form.scale_dtype == "uint8" else scales
    lost = ~np.isfinite(scales.reshape(layout.kv_heads, form.scales, layout.page)).all(axis=1)
    vectors[lost[:, np.argsort(scale_order()) if layout.order == "fragments" else slice(None)]] = np.nan
    return vectors


def read(
    layout: CacheLayout, state: dict[str, np.ndarray], table: np.ndarray, b: int, total: int, side: str
) -> np.ndarray:
    """What the cache of sequence `b` holds: float32 [kv_heads, total, rows]; `table` is its page table row.

    Exact tokens have zeros in the rows of sketches.
    NaN for tokens that a ring of pages has let go: an attention that sees one is NaN too.
    """
    dim = layout.head_dim
    out = np.full((layout.kv_heads, total, layout.form(side).rows), np.nan, np.float32)
    sinks = layout.exact_vectors(side, state[f"sink_{side}"][b]) if layout.sinks else None
    tail = layout.exact_vectors(side, state[f"tail_{side}"][b])
    for p in range(total):
        t = p - layout.sinks
        page, offset = divmod(t, layout.page)
        if t < 0 or t >= layout.coded(total):
            out[:, p, :dim] = sinks[:, p] if t < 0 else tail[:, page % layout.tail_pages, offset]
            out[:, p, dim:] = 0
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
    history = history.astype(numpy_type(layout.exact_dtype)).astype(np.float32)  # what codes are made from too
    np.testing.assert_array_equal(held[:, exact, : layout.head_dim], history[:, exact])
    check_coded(layout.form(side), side, held[:, coded], history[:, coded])


def check_coded(form: Form, side: str, held: np.ndarray, history: np.ndarray) -> None:
    """Asserts that `held` [kv_heads, tokens, rows] is what the codec makes of `history`, but near thresholds."""
    heads, tokens, dim = history.shape
    whole = np.zeros((heads, -(-max(tokens, 1) // 16) * 16, dim), np.float32)
    whole[:, :tokens] = history
    wanted = decode_page(form, side, *encode_page(form, side, whole), whole.shape[1])[:, :tokens]
    if form.exact:
        np.testing.assert_array_equal(held, wanted)
        return
    off = np.abs(held - wanted) > 2e-3 * np.abs(wanted)
    off[..., dim:] &= ~off[..., :dim].any(axis=-1, keepdims=True)  # another code leaves another rest to sketch
    assert off.sum() <= 1e-3 * off.size
    for bands in ([band for band in form.coded_bands if band.scale == s] for s in range(form.scales)):
        if form.kind == "polar" or any(band.sketch for band in bands):
            continue
        parts = [history[..., band.start : band.stop].astype(np.float64) for band in bands]
        norm = np.linalg.norm(np.concatenate(parts, axis=-1), axis=-1, keepdims=True)
        for band, part in zip(bands, parts, strict=True):
            distance = np.abs((part / norm)[..., None] - form.table(band).thresholds).min(axis=-1)
            assert not (off[..., band.start : band.stop] & (distance > NEAR_THRESHOLD)).any()


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
    """Causal attention of q [query_heads, S, Rk], first query at position `start`, over k [kv_heads, tokens, Rk] and
    v [kv_heads, tokens, Rv].

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
