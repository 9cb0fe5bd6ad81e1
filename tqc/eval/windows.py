"""Fidelity over a text of any length: windows of what the models hold, each with an empty cache, summed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tqc.errors import SessionError
from tqc.eval.fidelity import Tally, log_softmax
from tqc.eval.forcing import Decoder, mode, teacher_forced
from tqc.eval.results import Fidelity, Sums


def windows(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    """The text cut so that every token but the first is predicted once: pieces of at most `size` tokens, each with the
    token that follows it. Raises SessionError when there is nothing to predict or `size` is not positive."""
    if len(ids) < 2 or size < 1:
        raise SessionError(
            "there is nothing to predict",
            expected="a text of at least 2 tokens, a window of at least 1",
            found=f"{len(ids)} tokens, a window of {size}",
        )
    return [ids[start : start + size + 1] for start in range(0, len(ids) - 1, size)]


def measure_window(
    session: Decoder,
    reference: Decoder | None,
    ids: Sequence[int],
    *,
    chunk: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Sums:
    """Predictions of the tokens `ids[1:]`, teacher-forced from an empty cache: see `teacher_forced` for `chunk`.

    Both models advance together, so that only the logits of one chunk are held. `progress` is called with the
    predictions made. Raises SessionError when logits are not finite or the models differ in their vocabulary.
    """
    fed, tally, done = ids[:-1], Tally(), 0
    expected = teacher_forced(reference, fed, chunk) if reference else None
    for found in teacher_forced(session, fed, chunk):
        following = np.asarray(ids[done + 1 : done + 1 + len(found)], np.int64)
        if expected:
            wanted = next(expected)
            if wanted.shape != found.shape:
                raise SessionError(
                    "artifact and reference have different vocabularies",
                    expected=f"{wanted.shape[-1]} logits, as the reference",
                    found=f"{found.shape[-1]}",
                )
            tally.add(wanted, found, following)
        else:
            _add_loss(tally, found, following)
        done += len(found)
        if progress:
            progress(done)
    return Sums(**vars(tally))


def _add_loss(tally: Tally, found: np.ndarray, following: np.ndarray) -> None:
    if not np.isfinite(found).all():
        raise SessionError("logits are not finite", where=f"prediction {tally.tokens} or one of the next {len(found)}")
    tally.tokens += len(following)
    tally.loss -= float(log_softmax(found)[np.arange(len(following)), following].sum())


def summed(parts: Sequence[Sums], *, wanted: int, window: int, chunk: int, compared: bool) -> Fidelity:
    """The averages over windows, at least one; `compared`: there was a reference."""
    tokens = sum(part.tokens for part in parts)
    perplexity = float(np.exp(sum(part.loss for part in parts) / tokens))
    found = {}
    if compared:
        other = float(np.exp(sum(part.reference_loss for part in parts) / tokens))
        found = {
            "agreement": sum(part.agreed for part in parts) / tokens,
            "reference_perplexity": other,
            "perplexity_change": perplexity / other - 1,
            "kl": sum(part.kl for part in parts) / tokens,
            "kl_max": max(part.kl_max for part in parts),
            "max_difference": max(part.max_difference for part in parts),
        }
    return Fidelity(
        wanted=wanted,
        tokens=tokens,
        window=window,
        chunk=chunk,
        mode=mode(chunk),
        perplexity=perplexity,
        windows=tuple(parts),
        **found,
    )
