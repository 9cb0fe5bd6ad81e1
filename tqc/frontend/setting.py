"""The sizes of one run of a probe, and what the bookkeeping inputs hold at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Setting:
    """Sizes of one run: batch, new tokens, cached tokens, and how many leading keys of row 0 are padding."""

    batch: int
    seq: int
    past: int
    padding: int = 0

    @property
    def total(self) -> int:
        return self.past + self.seq

    def mask(self) -> np.ndarray:
        """[batch, total] int64: 1 for tokens, 0 for padding."""
        mask = np.ones((self.batch, self.total), np.int64)
        mask[0, : self.padding] = 0
        return mask

    def positions(self) -> np.ndarray:
        """[batch, seq] int64: how many tokens lie before each; 0 at padding."""
        return np.maximum(np.cumsum(self.mask(), 1) - 1, 0)[:, self.past :]
