"""How far a model with a compressed cache is from a reference: next-token agreement, perplexity, KL divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tqc.errors import SessionError
from tqc.eval.forcing import Decoder, mode, teacher_forced


@dataclass(frozen=True)
class Fidelity:
    """Comparison over `tokens` predictions of one text.

    `agreement` is the share of predictions whose most likely next token is the reference's. Perplexities are
    exp(mean −ln p(next token)). `kl` is the mean of KL(reference ‖ test) in nats, `kl_max` its largest value.
    `max_difference` is the largest |Δlogit|.
    """

    tokens: int
    mode: str
    agreement: float
    reference_perplexity: float
    perplexity: float
    kl: float
    kl_max: float
    max_difference: float

    @property
    def perplexity_change(self) -> float:
        """Relative change: 0.01 is 1 % worse than the reference."""
        return self.perplexity / self.reference_perplexity - 1.0


class Tally:
    """Running sums of one comparison; holds no logits."""

    def __init__(self) -> None:
        self.tokens = self.agreed = 0
        self.reference_loss = self.loss = self.kl = 0.0
        self.kl_max = self.max_difference = 0.0

    def add(self, reference: np.ndarray, test: np.ndarray, following: Sequence[int]) -> None:
        """Adds predictions: logits (n, vocab) of both models, and the n tokens that really follow."""
        if not (np.isfinite(reference).all() and np.isfinite(test).all()):
            raise SessionError(
                "logits are not finite", where=f"prediction {self.tokens} or one of the next {len(test)}"
            )
        rows = np.arange(len(following))
        reference_log, test_log = log_softmax(reference), log_softmax(test)
        divergence = (np.exp(reference_log) * (reference_log - test_log)).sum(axis=-1)
        self.tokens += len(rows)
        self.agreed += int((reference.argmax(axis=-1) == test.argmax(axis=-1)).sum())
        self.reference_loss -= float(reference_log[rows, following].sum())
        self.loss -= float(test_log[rows, following].sum())
        self.kl += float(divergence.sum())
        self.kl_max = max(self.kl_max, float(divergence.max()))
        self.max_difference = max(self.max_difference, float(np.abs(reference - test).max()))

    def result(self, how: str) -> Fidelity:
        """The averages; at least one prediction must have been added."""
        return Fidelity(
            tokens=self.tokens,
            mode=how,
            agreement=self.agreed / self.tokens,
            reference_perplexity=float(np.exp(self.reference_loss / self.tokens)),
            perplexity=float(np.exp(self.loss / self.tokens)),
            kl=self.kl / self.tokens,
            kl_max=self.kl_max,
            max_difference=self.max_difference,
        )


def compare(
    reference: Decoder,
    tests: Mapping[str, Decoder],
    ids: Sequence[int],
    *,
    chunk: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Fidelity]:
    """Compares each of `tests` with `reference` over the text `ids`, all fed the same true tokens.

    The models advance together, so that only the logits of one chunk are held. `chunk` 1 goes through `decode`
    (strict), more through `prefill` (see `teacher_forced`). `progress` is called with (tokens done, all tokens). Raises
    SessionError when `ids` has fewer than two tokens or logits are not finite.
    """
    if len(ids) < 2:
        raise SessionError("a comparison needs a text of at least two tokens", found=f"{len(ids)}")
    # The last token has no successor to predict.
    fed, tallies = ids[:-1], {name: Tally() for name in tests}
    streams = {name: teacher_forced(session, fed, chunk) for name, session in tests.items()}
    done = 0
    for expected in teacher_forced(reference, fed, chunk):
        following = np.asarray(ids[done + 1 : done + 1 + len(expected)], dtype=np.int64)
        for name, stream in streams.items():
            tallies[name].add(expected, next(stream), following)
        done += len(expected)
        if progress:
            progress(done, len(fed))
    return {name: tally.result(mode(chunk)) for name, tally in tallies.items()}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln softmax over the last axis in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
