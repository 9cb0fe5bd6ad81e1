"""Text token by token: prefill once, then decode and choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..errors import SessionError
from .sampling import Sampling

if TYPE_CHECKING:
    from .session import Session


def generate(
    session: Session,
    rows: list[np.ndarray],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    stop: Iterable[int],
) -> Iterator[list[int | None]]:
    """Yields one list a step: the next token of each sequence, None for those that have met a stop token.

    A stop token is yielded and ends its sequence. The last token of a sequence is never written to the cache. Raises
    SessionError at once, before anything is written, when the tokens would not fit.
    """
    if max_new_tokens < 1:
        raise SessionError(
            "There is nothing to generate", expected="max_new_tokens of 1 or more", found=f"{max_new_tokens}"
        )
    if seed < 0:
        raise SessionError("The seed is out of range", expected="0 or more", found=f"{seed}")
    session.check_room([len(row) + max_new_tokens - 1 for row in rows])
    return _steps(session, rows, max_new_tokens, sampling, seed, frozenset(stop))


def _steps(session, rows, max_new_tokens, sampling, seed, stop) -> Iterator[list[int | None]]:
    # One stream a sequence: what a sequence says does not depend on its neighbours.
    streams = [np.random.default_rng([seed, number]) for number in range(len(rows))]
    active = [True] * len(rows)
    logits = session.prefill(rows)
    for step in range(max_new_tokens):
        chosen = [
            sampling.choose(row, stream) if on else None
            for row, stream, on in zip(logits, streams, active, strict=True)
        ]
        yield chosen
        active = [token is not None and token not in stop for token in chosen]
        if step + 1 == max_new_tokens or not any(active):
            return
        logits = session.advance(chosen, active)
