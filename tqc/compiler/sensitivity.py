"""How much the model's predictions change when one side of one layer is coded: what a plan weighs layers with.

The model runs over the first half of a text once. Then it runs over the second half again and again, each time with
the keys or the values that one layer has cached of the first half in codes and all others exact. The mean KL divergence
from the exact run is that side's sensitivity. These are small, and their sum over all layers comes close to the
divergence of the model with everything in codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tqc.errors import FrontendError
from tqc.frontend.interface import Interface
from tqc.frontend.load import LoadedModel

from . import pieces
from .calibrate import prompt

TOKENS = 1024
"""Of the text, at most."""

LARGEST = 2 << 30
"""Bytes of weights up to which a model is run this often; of larger ones all weights would be in memory for minutes."""

Recode = Callable[[int, str, np.ndarray], np.ndarray]
"""(layer, `k` or `v`, vectors [Hk, tokens, D] float32) → what is read back of them."""


def can_measure(model: LoadedModel) -> bool:
    """Whether the model is small enough."""
    sizes = (np.dtype(x.dtype).itemsize * np.prod(x.shape, dtype=np.int64) for x in model.initializers.values())
    return sum(sizes) <= LARGEST


def sensitivities(
    model: LoadedModel, interface: Interface, ids: Sequence[int], recode: Recode, *, skip: int
) -> dict[tuple[int, str], float]:
    """(layer, side) → KL divergence in nats when this side's old tokens, but the first `skip`, went through `recode`.

    Raises FrontendError if onnxruntime cannot run the model with a past.
    """
    import onnxruntime as ort

    ids = np.asarray(ids[:TOKENS], np.int64)[None]
    half, found = ids.shape[1] // 2, {}

    def as_values(arrays: dict[str, np.ndarray]) -> dict[str, ort.OrtValue]:
        return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}

    try:
        first, feeds = prompt(model, interface, ids[:, :half], {})
        names = {name: past for x in interface.layers for name, past in zip(*_cache_names(x), strict=True)}
        past = {names[name]: array for name, array in pieces.run(first, as_values(feeds), list(names))}
        second, feeds = prompt(model, interface, ids[:, half:], past)
        values = as_values(feeds)
        run = pieces.whole(second, values, [interface.logits])
        exact = _log_probabilities(run(values)[0])
        for layer, cache in enumerate(interface.layers):
            for side, name in (("k", cache.past_key), ("v", cache.past_value)):
                coded = past[name].copy()
                coded[0, :, skip:] = recode(layer, side, coded[0, :, skip:].astype(np.float32))
                changed = _log_probabilities(run(values | as_values({name: coded}))[0])
                found[layer, side] = float((np.exp(exact) * (exact - changed)).sum(axis=-1).mean())
    except FrontendError:
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise FrontendError(
            "onnxruntime cannot run the model behind a cache", where=str(model.path), found=str(error)
        ) from error
    return found


def _cache_names(cache) -> tuple[tuple[str, str], tuple[str, str]]:
    return (cache.present_key, cache.present_value), (cache.past_key, cache.past_value)


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 [S, V] of logits [1, S, V]."""
    x = logits[0].astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
