"""Feeds a known text to a model token by token or chunk by chunk, and hands out its predictions as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tqc.errors import SessionError


class Decoder(Protocol):
    """What the evaluation needs of a running model: `tqc.runtime`'s Session, `OnnxSession`, or a test's own.

    Logits may have any leading dimensions; their last one is the vocabulary.
    """

    def reset(self) -> None:
        """Empties the cache."""

    def prefill(self, ids: Sequence[int], *, all_logits: bool = ...) -> np.ndarray:
        """Appends tokens to one sequence; logits of all of them, in order, with `all_logits`."""

    def decode(self, ids: Sequence[int]) -> np.ndarray:
        """Appends one token; its logits."""

    @property
    def kv_bytes(self) -> Any:
        """Bytes of the cache: a number, or an object whose `used` is one."""


def cache_bytes(session: Decoder) -> int:
    """Bytes of a model's cache that hold tokens now."""
    size = session.kv_bytes
    return int(getattr(size, "used", size))


def mode(chunk: int) -> str:
    """How `teacher_forced` feeds a text with this chunk size, in words for a report."""
    return "decode, one token a step" if chunk == 1 else f"prefill in chunks of {chunk} tokens"


def teacher_forced(session: Decoder, ids: Sequence[int], chunk: int) -> Iterator[np.ndarray]:
    """Yields float32 logits (n, vocab) of consecutive tokens of `ids`, n ≤ `chunk`, starting with an empty cache.

    With `chunk` 1 every token but the first goes through `decode`: what the model sees when it writes. Larger chunks go
    through `prefill`, which is faster and attends to the tokens of its own chunk exactly; only earlier tokens are read
    from the compressed cache, so the result is slightly better than in decoding.
    """
    if chunk < 1:
        raise SessionError("a chunk holds at least one token", expected="chunk >= 1", found=str(chunk))
    session.reset()
    for start in range(0, len(ids), chunk):
        part = [int(token) for token in ids[start : start + chunk]]
        logits = session.decode(part) if chunk == 1 and start else session.prefill(part, all_logits=True)
        rows = np.asarray(logits, dtype=np.float32)
        rows = rows.reshape(-1, rows.shape[-1])
        if len(rows) != len(part):
            raise SessionError("the model gave another number of logits", expected=str(len(part)), found=str(len(rows)))
        yield rows
