"""What an operation's definition demands of its bookkeeping operands, to be checked by probes.

An operation such as GroupQueryAttention is told where its tokens lie by operands that are computed from the sizes, the
attention mask or position_ids. The canonical form leaves that to the runtime, which is right only if those operands
say the usual thing; whoever drops one claims what it says, and the claim is checked by running the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from .setting import Setting


class Claim(Enum):
    """The value of a tensor at every size, for sequences without padding."""

    POSITIONS = "the position of every new token, [batch, seq]"
    START = "the number of cached tokens"
    TOTAL = "the number of cached and new tokens"
    SEQ = "the number of new tokens"
    LAST = "the position of the last token, [batch]"
    MASK = "attention_mask, [batch, total]"

    def expected(self, setting: Setting) -> np.ndarray:
        """The value at one setting."""
        batch = (setting.batch,)
        if self is Claim.POSITIONS:
            return setting.positions()
        if self is Claim.MASK:
            return setting.mask()
        if self is Claim.LAST:
            return np.full(batch, setting.total - 1)
        return np.full((), {Claim.START: setting.past, Claim.TOTAL: setting.total, Claim.SEQ: setting.seq}[self])

    def holds(self, found: np.ndarray, setting: Setting) -> bool:
        """Whether `found` says this, axes of length 1 left aside; one row may stand for all."""
        expected = self.expected(setting)
        if found.size != expected.size:
            expected = expected[:1] if expected.ndim and found.size == expected[:1].size else expected
        return found.size == expected.size and np.array_equal(found.reshape(-1), expected.reshape(-1))


@dataclass(frozen=True)
class Claimed:
    """One claim: the tensor, what it says, and the label of the node whose operand it is."""

    tensor: str
    claim: Claim
    where: str
