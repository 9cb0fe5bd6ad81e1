from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.eval.forcing import cache_bytes, mode, teacher_forced


class Recorder:
    """A model whose logits tell which token they belong to, and that remembers how it was fed."""

    def __init__(self, vocab: int = 5, batched: bool = True) -> None:
        self.calls, self.vocab, self.batched = [], vocab, batched

    def _logits(self, ids):
        rows = np.eye(self.vocab, dtype=np.float64)[list(ids)]
        return rows[None] if self.batched else rows

    def reset(self):
        self.calls.append("reset")

    def prefill(self, ids, *, all_logits=False):
        assert all_logits
        self.calls.append(("prefill", *ids))
        return self._logits(ids)

    def decode(self, ids):
        self.calls.append(("decode", *ids))
        return self._logits(ids)


TEXT = np.array([3, 1, 4, 1, 0, 2, 2])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_every_token_is_fed_once_and_answered_in_order(chunk, batched):
    parts = list(teacher_forced(Recorder(batched=batched), TEXT, chunk))
    assert [len(part) for part in parts[:-1]] == [chunk] * (len(parts) - 1)
    assert {part.dtype for part in parts} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(parts).argmax(axis=-1), TEXT)


def test_one_token_at_a_time_goes_through_decode():
    model = Recorder()
    list(teacher_forced(model, TEXT[:4], 1))
    assert model.calls == ["reset", ("prefill", 3), ("decode", 1), ("decode", 4), ("decode", 1)]


def test_chunks_go_through_prefill():
    model = Recorder()
    list(teacher_forced(model, TEXT[:5], 2))
    assert model.calls == ["reset", ("prefill", 3, 1), ("prefill", 4, 1), ("prefill", 0)]


def test_bytes_of_the_cache_are_a_number_or_have_one():
    assert cache_bytes(SimpleNamespace(kv_bytes=12)) == 12
    assert cache_bytes(SimpleNamespace(kv_bytes=SimpleNamespace(used=7, fp16=20))) == 7


def test_the_mode_is_told():
    assert mode(1) == "decode, one token a step"
    assert mode(64) == "prefill in chunks of 64 tokens"


def test_reject_a_chunk_of_nothing():
    with pytest.raises(SessionError, match="at least one token"):
        next(teacher_forced(Recorder(), TEXT, 0))


def test_reject_a_model_that_returns_the_last_logits_only():
    model = Recorder()
    model._logits = lambda ids: np.zeros((1, 5))
    with pytest.raises(SessionError, match="another number of logits"):
        list(teacher_forced(model, TEXT, 3))
