from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.eval.fidelity import compare
from tqc.eval.results import Sums
from tqc.eval.windows import measure_window, summed, windows

TEXT = [0, 1, 1, 2, 0, 2, 1, 0]


class Table:
    """A model that predicts the next token from the last one and how many are in its cache."""

    def __init__(self, seed: int, vocab: int = 3) -> None:
        self.logits = np.random.default_rng(seed).standard_normal((vocab, vocab))
        self.length = self.resets = 0

    def reset(self):
        self.length, self.resets = 0, self.resets + 1

    def prefill(self, ids, *, all_logits=False):
        rows = [self.logits[token] * (1 + self.length + i) for i, token in enumerate(ids)]
        self.length += len(ids)
        return np.array(rows)

    def decode(self, ids):
        return self.prefill(ids)


def test_every_token_but_the_first_is_predicted_once():
    assert windows(TEXT, 3) == [[0, 1, 1, 2], [2, 0, 2, 1], [1, 0]]
    assert windows(TEXT, 7) == windows(TEXT, 100) == [TEXT]
    for size in range(1, 9):
        assert [token for part in windows(TEXT, size) for token in part[1:]] == TEXT[1:]


@pytest.mark.parametrize(("ids", "size"), [([], 4), ([1], 4), (TEXT, 0)])
def test_nothing_to_predict_is_refused(ids, size):
    with pytest.raises(SessionError, match="nothing to predict"):
        windows(ids, size)


@pytest.mark.parametrize("chunk", [1, 2, 8])
def test_one_window_equals_a_comparison(chunk):
    expected = compare(Table(0), {"test": Table(1)}, TEXT, chunk=chunk)["test"]
    part = measure_window(Table(1), Table(0), TEXT, chunk=chunk)
    found = summed([part], wanted=7, window=8, chunk=chunk, compared=True)
    for name in ("tokens", "mode", "agreement", "perplexity", "reference_perplexity", "kl", "kl_max", "max_difference"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.perplexity_change == pytest.approx(expected.perplexity_change)


def test_windows_start_with_an_empty_cache_and_add_up():
    test, other = Table(1), Table(0)
    parts = [measure_window(test, other, window, chunk=2) for window in windows(TEXT, 3)]
    assert (test.resets, other.resets) == (3, 3)
    total = summed(parts, wanted=7, window=3, chunk=2, compared=True)
    assert total.tokens == 7
    assert total.kl == pytest.approx(sum(part.kl for part in parts) / 7)
    assert total.kl_max == max(part.kl_max for part in parts)
    assert total.perplexity == pytest.approx(np.exp(sum(part.loss for part in parts) / 7))


def test_without_a_reference_there_is_only_perplexity():
    alone = measure_window(Table(1), None, TEXT, chunk=3)
    assert alone.loss == pytest.approx(measure_window(Table(1), Table(0), TEXT, chunk=3).loss)
    total = summed([alone], wanted=7, window=8, chunk=3, compared=False)
    assert total.perplexity == pytest.approx(np.exp(alone.loss / 7))
    assert {total.agreement, total.kl, total.reference_perplexity, total.max_difference} == {None}


def test_progress_counts_predictions():
    seen = []
    measure_window(Table(1), None, TEXT, chunk=3, progress=seen.append)
    assert seen == [3, 6, 7]


def test_another_vocabulary_is_refused():
    with pytest.raises(SessionError, match="different vocabularies"):
        measure_window(Table(1, vocab=4), Table(0), TEXT)


def test_logits_that_are_not_finite_are_refused():
    broken = Table(1)
    broken.logits[1, 2] = np.nan
    with pytest.raises(SessionError, match="not finite"):
        measure_window(broken, None, TEXT)


def test_unfinished_text_is_told():
    assert summed([Sums(tokens=3, loss=1.0)], wanted=7, window=3, chunk=1, compared=False).tokens == 3
