"""What a scheme costs a layer: measured over a text, or predicted from how long its keys and queries are.

Measured: the layer's attention is computed again with keys (or values) that went through the codec, where they would
have left the exact window, and the change of its product with the output weights is compared with the residual stream
it is added to. Summed over layers, this follows the KL divergence of the whole model; what keys cost counts 1.3 times
(docs/plan.md).

Predicted: the noise of a logit is ‖q‖·‖k‖·√D/d times the softmax's scale and √d (the logit-noise law), and noise of
variance σ² in the logits changes an output about as much as relative noise of σ² in the values does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec.form import Form, form
from tqc.codec.lloyd_max import beta_law, codebook
from tqc.errors import PassError
from tqc.frontend.canonical import LayerInfo
from tqc.passes.bases import Bases

from .moments import Sample
from .recode import make_recode

KEYS_COUNT = 1.3
QUERIES = 128
"""Queries of a sample that are compared, at most."""

LEAST_CODED = 64
"""Tokens that must be coded for the last query, at least, for a sample to say anything."""


@dataclass(frozen=True)
class Window:
    """Tokens that stay exact: the first `sinks`, and those less than `near` before a query."""

    sinks: int
    near: int


def measured_cost(
    sample: Sample,
    info: LayerInfo,
    side: str,
    name: str,
    bases: Bases | None,
    mean: np.ndarray,
    output: np.ndarray | None,
    window: Window,
) -> float:
    """The relative power of the change that the scheme `name` of `side` makes to the layer's output.

    `mean` [Hk, D] centres the keys; `output` [H·D, N] are the output weights, None where they are not known: the change
    is then compared with the attention's own output. Raises PassError if the sample has no queries or is too short.
    """
    length = sample.keys.shape[1]
    first = window.sinks + window.near + LEAST_CODED
    if sample.queries is None or length <= first:
        raise PassError("the text is too short for a plan", expected=f"more than {first} tokens", found=str(length))
    schemes = {info.layer: (name, name)}
    recode = make_recode(schemes, {info.layer: mean}, {info.layer: bases} if bases else {})
    vectors = np.asarray(sample.keys if side == "k" else sample.values, np.float32)
    coded = recode(info.layer, side, vectors)
    at = np.unique(np.linspace(first, length - 1, QUERIES).astype(int))
    group, changed, plain = info.query_heads // info.kv_heads, [], []
    for head in range(info.query_heads):
        h = head // group
        exact, new = _attend(
            sample.queries[head, at].astype(np.float32),
            (sample.keys[h].astype(np.float32), sample.values[h].astype(np.float32)),
            coded[h],
            side,
            at,
            info,
            window,
        )
        changed.append(new - exact)
        plain.append(exact)
    change = np.concatenate(changed, axis=1)
    if output is None:
        return float(np.square(change).sum() / np.square(np.concatenate(plain, axis=1)).sum())
    power = np.square(change @ output).sum(axis=1).mean()
    return float(power / _residual_power(sample, np.concatenate(plain, axis=1) @ output, window.sinks))


def _residual_power(sample: Sample, products: np.ndarray, sinks: int) -> float:
    """The median, since the first tokens of some models have residuals a thousand times as large as all others."""
    stream = products if sample.residual is None else sample.residual[max(sinks, 4) :].astype(np.float32)
    return float(np.median(np.square(stream).sum(axis=1)))


def _attend(
    q: np.ndarray,
    exact: tuple[np.ndarray, np.ndarray],
    coded: np.ndarray,
    side: str,
    at: np.ndarray,
    info: LayerInfo,
    window: Window,
) -> tuple[np.ndarray, np.ndarray]:
    """Outputs [n, D] of queries q [n, D] at positions `at`, with exact and with coded vectors of `side`."""
    keys, values = exact
    token = np.arange(len(keys))
    seen = token <= at[:, None]
    if info.window:
        seen &= token > at[:, None] - info.window
    old = seen & (token >= window.sinks) & (token <= at[:, None] - window.near)
    scores = q @ keys.T
    weights = _softmax(scores, seen, info)
    if side == "k":
        return weights @ values, _softmax(np.where(old, q @ coded.T, scores), seen, info) @ values
    return weights @ values, weights @ values + (weights * old) @ (coded - values)


def _softmax(products: np.ndarray, seen: np.ndarray, info: LayerInfo) -> np.ndarray:
    scores = products * np.float32(info.scale)
    if info.softcap:
        scores = np.tanh(scores / info.softcap) * info.softcap
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def predicted_cost(info: LayerInfo, side: str, name: str, query_norm: float, key_norm: float) -> float:
    """By the logit-noise law, for schemes whose errors point everywhere alike: `tq1` … `tq8`.

    `query_norm` and `key_norm` are root mean square lengths; of values only their relative error counts.
    """
    noise = distortion(form(name, info.head_dim))
    if side == "v":
        return noise
    return float((info.scale * query_norm * key_norm) ** 2 * noise / info.head_dim)


def distortion(stored: Form) -> float:
    """E‖x − x̃‖²/‖x‖² of a form of one band with its unbiased scale: D/(1 − D), D that of the codebook."""
    (band,) = stored.bands
    book = codebook(band.bits, stored.head_dim)
    # ⟨y, ŷ⟩ is 1 − D on average.
    law = beta_law(stored.head_dim)
    positive = book.centroids[book.centroids > 0].astype(np.float64)
    mass, mean, _ = law.cells(((positive[:-1] + positive[1:]) / 2) if len(positive) > 1 else np.empty(0))
    kept = stored.head_dim * float((mass * mean * mean).sum() / mass.sum())
    return (1 - kept) / kept
