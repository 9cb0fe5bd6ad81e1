"""The next token from a row of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import SessionError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the most probable one; `top_k` and `top_p` cut the others off."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        for name, good, expected in (
            ("temperature", np.isfinite(self.temperature) and self.temperature >= 0, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
        ):
            if not good:
                raise SessionError("A sampling option is out of range", where=name, expected=expected)

    def choose(self, logits: np.ndarray, random: np.random.Generator) -> int:
        """A token id from finite `logits` [vocab]; among equal ones the lowest id."""
        if self.temperature == 0:
            return int(np.argmax(logits))
        # The stable order makes ties, and so the draw, the same on every machine.
        order = np.argsort(-logits, kind="stable")[: self.top_k]
        scores = (logits[order].astype(np.float64) - float(logits[order[0]])) / self.temperature
        chances = np.exp(scores)
        chances /= chances.sum()
        if self.top_p is not None:
            kept = int(np.searchsorted(np.cumsum(chances), self.top_p)) + 1
            order, chances = order[:kept], chances[:kept] / chances[:kept].sum()
        return int(order[min(int(np.searchsorted(np.cumsum(chances), random.random(), side="right")), len(order) - 1)])
