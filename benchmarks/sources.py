"""Where `ablations.py` takes means and second moments from: the model measured over texts, each when asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from engines import token_ids

GENERATED = 512
"""Tokens of the model's own text, as many as a mean is taken over."""

LONGER = 2048
"""Tokens of the longer text, as many as are measured at most."""


class Sources:
    """`text`: the built-in text, keys before RoPE, averaged over positions; `after`: the same as keys are after RoPE
    at the text's own positions; `generated`: a text that the model wrote; `longer`: the beginning of the text of the
    measurement, before what is measured.

    `model` is pareto's `Model`, `exact` a session of it. `generated` is the model's own text if it is known.
    """

    def __init__(self, options: argparse.Namespace, model: Any, exact: Any, generated: str = "") -> None:
        self._options, self._model, self._exact = options, model, exact
        self._made = {"text": model.means}
        self._generated = generated

    def get(self, name: str) -> Any:
        """The `KeyMeans` of a source, with moments. Raises KeyError for an unknown name."""
        if name not in self._made:
            make = {"after": self._after, "generated": self._of_generated, "longer": self._longer}[name]
            self._made[name] = make()
        return self._made[name]

    @cached_property
    def value_means(self) -> dict[int, np.ndarray]:
        """Means of the values over the built-in text, float32 [Hk, D] of every layer."""
        from tqc.compiler.calibrate import built_in_text

        found: dict[int, np.ndarray] = {}
        skip = self._model.options.sinks

        def keep(layer: int, sample: Any, _moments: Any) -> None:
            found[layer] = sample.values[:, skip:].mean(axis=1).astype(np.float32)

        self._measure(built_in_text(), on_layer=keep)
        return found

    @cached_property
    def generated(self) -> str:
        """What the model writes after "The", drawn with temperature 1 and seed 0."""
        if not self._generated:
            random, ids = np.random.default_rng(0), token_ids(self._options.onnx, "The", 1)
            self._exact.reset()
            logits = self._exact.prefill(ids)
            for _ in range(GENERATED):
                chances = np.exp(logits[0].astype(np.float64) - logits.max())
                ids.append(int(random.choice(len(chances), p=chances / chances.sum())))
                logits = self._exact.decode(ids[-1:])
            self._generated = self._decoded(ids)
        return self._generated

    def _of_generated(self) -> Any:
        return self._measure(self.generated)

    def _after(self) -> Any:
        from tqc.compiler.calibrate import built_in_text

        return self._measure(built_in_text(), [replace(x, rope=None) for x in self._model.imported.layers])

    def _longer(self) -> Any:
        from tqc.eval.texts import prose

        text = self._options.text.read_text() if self._options.text else prose()
        return self._measure(self._decoded(token_ids(self._options.onnx, text, min(LONGER, self._options.skip))))

    def _decoded(self, ids: Sequence[int]) -> str:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._options.onnx.parent / "tokenizer.json")).decode(list(ids))

    def _measure(self, text: str, layers: Sequence[Any] = (), on_layer: Any = None) -> Any:
        from tqc.compiler.calibrate import measure_key_means

        imported = self._model.imported
        return measure_key_means(
            self._options.onnx,
            imported.interface,
            text,
            skip=self._model.options.sinks,
            layers=layers or imported.layers,
            length=self._model.context,
            moments=True,
            on_layer=on_layer,
        )
