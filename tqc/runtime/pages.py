"""Which page of the pool holds which piece of a sequence."""

from __future__ import annotations

import numpy as np

from ..errors import SessionError


class PageTable:
    """Pages handed out as sequences grow. `table[b, i]` is the pool page of the i-th page of sequence b; entries of
    pages that are not in use are 0 and never read."""

    def __init__(self, batch: int, pages_per_sequence: int) -> None:
        # A kernel's buffers have at least one element, even where no token can ever leave the sinks.
        self.table = np.zeros((batch, max(1, pages_per_sequence)), np.int32)
        self.version = 0
        self.clear()

    @property
    def per_sequence(self) -> int:
        """Pages that a sequence can have."""
        return self.table.shape[1]

    @property
    def pool(self) -> int:
        """Pages in the pool: enough for every sequence at its longest."""
        return self.table.size

    def clear(self) -> None:
        """Takes all pages back."""
        self._free = list(range(self.pool))[::-1]
        self._used = [0] * len(self.table)
        self.table[:] = 0
        self.version += 1

    def grow(self, sequence: int, pages: int) -> None:
        """Makes sure the first `pages` pages of `sequence` have a place. Raises SessionError when the table is full."""
        if pages > self.table.shape[1]:
            raise SessionError(
                "A sequence has no pages left",
                where=f"sequence {sequence}",
                expected=f"at most {self.table.shape[1]} pages",
                found=f"{pages}",
            )
        while self._used[sequence] < pages:
            self.table[sequence, self._used[sequence]] = self._free.pop()
            self._used[sequence] += 1
            self.version += 1
