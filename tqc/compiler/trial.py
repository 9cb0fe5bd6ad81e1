"""The model behind a past in codes: what a choice of schemes changes in its predictions.

The model reads three quarters of a text once. For every choice it then runs over the rest, with what it has cached of
the first part in that choice's codes. Choices are so compared over the same tokens, and what the codec gives back of a
place is kept for the next choice with the same scheme there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tqc.errors import FrontendError
from tqc.frontend.interface import Interface
from tqc.frontend.load import LoadedModel

from . import pieces
from .calibrate import prompt

TOKENS = 1280
"""Of the text, at most: its last ones, since schemes were fitted to the first ones."""

LARGEST = 2 << 30
"""Bytes of weights up to which a model is run this often; of larger ones all weights would be in memory for minutes."""

_ROWS = 64
"""Predictions that are compared at a time: all of them with all words would take much memory."""

Place = tuple[int, str]
"""(layer, `k` or `v`)."""

Recode = Callable[[int, str, str, np.ndarray], np.ndarray]
"""(layer, `k` or `v`, scheme, vectors [Hk, tokens, D] float32) → what is read back of them."""


def can_measure(model: LoadedModel) -> bool:
    """Whether the model is small enough."""
    sizes = (np.dtype(x.dtype).itemsize * np.prod(x.shape, dtype=np.int64) for x in model.initializers.values())
    return sum(sizes) <= LARGEST


class Trial:
    """A model that has read three quarters of `ids`, and its predictions over the rest with an exact past."""

    def __init__(
        self, model: LoadedModel, interface: Interface, ids: Sequence[int], recode: Recode, *, skip: int
    ) -> None:
        """The past's first `skip` tokens always stay exact. Raises FrontendError if onnxruntime cannot run the model
        with a past."""
        self._recode, self._skip, self._path = recode, skip, model.path
        self._coded: dict[tuple[Place, str], object] = {}
        ids = np.asarray(ids[-TOKENS:], np.int64)[None]
        past = ids.shape[1] * 3 // 4
        names = {x.present_key: x.past_key for x in interface.layers}
        names |= {x.present_value: x.past_value for x in interface.layers}
        self._inputs = {
            (layer, side): name
            for layer, x in enumerate(interface.layers)
            for side, name in (("k", x.past_key), ("v", x.past_value))
        }
        with _Refusing(self._path):
            first, feeds = prompt(model, interface, ids[:, :past], {})
            self._past = {names[name]: array for name, array in pieces.run(first, _values(feeds), list(names))}
            second, feeds = prompt(model, interface, ids[:, past:], self._past)
            self._feeds = _values(feeds)
            self._run = pieces.whole(second, self._feeds, [interface.logits])
            self._exact = _log_probabilities(self._run(self._feeds)[0][0])
            self._probabilities = np.exp(self._exact)

    @property
    def places(self) -> list[Place]:
        """All places, K and V of each layer in turn."""
        return list(self._inputs)

    @property
    def predictions(self) -> int:
        """How many are compared."""
        return len(self._exact)

    def divergence(self, schemes: Mapping[Place, str]) -> float:
        """The mean KL divergence in nats from the exact predictions, with the past of these places in codes.

        Raises FrontendError if onnxruntime fails.
        """
        coded = {self._inputs[place]: self._value(place, name) for place, name in schemes.items()}
        with _Refusing(self._path):
            logits = self._run(self._feeds | coded)[0][0]
        total = 0.0
        for start in range(0, len(logits), _ROWS):
            rows = slice(start, start + _ROWS)
            change = _log_probabilities(logits[rows]) - self._exact[rows]
            # Σ p·(exp δ − 1) is 0. With it no term is negative, and small divergences do not drown in what is rounded.
            total += float((self._probabilities[rows] * (np.expm1(change) - change)).sum(dtype=np.float64))
        return total / len(logits)

    def _value(self, place: Place, name: str):
        if (place, name) not in self._coded:
            coded = self._past[self._inputs[place]].copy()
            vectors = coded[0, :, self._skip :].astype(np.float32)
            coded[0, :, self._skip :] = self._recode(*place, name, vectors)
            self._coded[place, name] = _value(coded)
        return self._coded[place, name]


class _Refusing:
    """Makes a FrontendError of what onnxruntime raises; its errors have no base of their own."""

    def __init__(self, path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind, error: BaseException | None, _trace) -> None:
        if isinstance(error, Exception) and not isinstance(error, FrontendError):
            raise FrontendError(
                "onnxruntime cannot run the model behind a cache", where=str(self._path), found=str(error)
            ) from error


def _value(array: np.ndarray):
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(array)


def _values(arrays: Mapping[str, np.ndarray]) -> dict:
    return {name: _value(array) for name, array in arrays.items()}


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    """float32 [S, V] of logits [S, V]."""
    x = logits.astype(np.float32)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
