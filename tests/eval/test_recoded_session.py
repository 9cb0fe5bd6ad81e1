"""Old tokens pass through a codec, new ones and sinks do not."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.eval.onnx_session import OnnxSession
from tqc.eval.recoded_session import RecodedSession

IDS = np.random.default_rng(0).integers(0, 256, 90).tolist()


def logits(session: OnnxSession, chunk: int = 10) -> np.ndarray:
    session.reset()
    parts = [session.prefill(IDS[i : i + chunk], all_logits=True) for i in range(0, len(IDS), chunk)]
    return np.concatenate(parts)


def test_a_codec_that_keeps_everything_changes_nothing(tiny_llama_onnx) -> None:
    exact = OnnxSession(tiny_llama_onnx)
    kept = RecodedSession(exact, lambda _layer, _side, x: x, sinks=2, recent=16, page=16)
    exact.prefill(IDS[:5])  # one model, two caches
    np.testing.assert_array_equal(logits(kept), logits(exact))


def test_every_page_passes_once_when_it_leaves_the_window(tiny_llama_onnx) -> None:
    seen = []

    def recode(layer: int, side: str, x: np.ndarray) -> np.ndarray:
        seen.append((layer, side, x.copy()))
        return np.zeros_like(x)

    session = RecodedSession(tiny_llama_onnx, recode, sinks=2, recent=16, page=16)
    changed = logits(session)
    exact = logits(OnnxSession(tiny_llama_onnx))
    pages = (90 - 2 - 16) // 16
    for layer in range(2):
        for side in "kv":
            found = [x for other, s, x in seen if (other, s) == (layer, side)]
            assert len(found) == pages
            assert all(x.shape[1] == 16 and x.any() for x in found)
    # The first page is recoded behind the chunk that ends at 40 tokens.
    np.testing.assert_array_equal(changed[:40], exact[:40])
    assert np.abs(changed[40:] - exact[40:]).max() > 1e-3


def test_a_chunk_longer_than_a_page_is_refused(tiny_llama_onnx) -> None:
    with pytest.raises(SessionError, match="longer than a page"):
        RecodedSession(tiny_llama_onnx, lambda _layer, _side, x: x, page=16).prefill(IDS[:17])
