"""Old tokens pass through a codec, new ones and sinks do not."""

from __future__ import annotations

import numpy as np
import pytest

import tqc
from tqc.errors import SessionError
from tqc.eval.onnx_session import OnnxSession
from tqc.eval.recoded_session import RecodedSession

IDS = np.random.default_rng(0).integers(0, 256, 90).tolist()
EXACT = {"kv": "fp32", "sinks": 0, "recent": 0, "page": 32, "max_context": 512}
"""Of the artifact; its pages are of another size than those that are recoded."""


@pytest.fixture
def session(tiny_llama_onnx, compiled):
    return tqc.load(compiled(tiny_llama_onnx, **EXACT))


def logits(model, chunk: int = 10) -> np.ndarray:
    model.reset()
    parts = [model.prefill(IDS[i : i + chunk], all_logits=True) for i in range(0, len(IDS), chunk)]
    return np.concatenate(parts)


def test_a_codec_that_keeps_everything_changes_nothing(tiny_llama_onnx, session) -> None:
    kept = RecodedSession(session, lambda _layer, _side, x: x, sinks=2, recent=16, page=16)
    np.testing.assert_allclose(logits(kept), logits(OnnxSession(tiny_llama_onnx)), atol=1e-4)


@pytest.mark.parametrize(("sinks", "recent"), [(2, 16), (0, 0)])
def test_every_page_passes_once_when_it_leaves_the_window(tiny_llama_onnx, session, sinks: int, recent: int) -> None:
    seen = []

    def recode(layer: int, side: str, x: np.ndarray) -> np.ndarray:
        seen.append((layer, side, x.copy()))
        return np.zeros_like(x)

    recoded = RecodedSession(session, recode, sinks=sinks, recent=recent, page=16)
    changed = logits(recoded)
    exact = logits(OnnxSession(tiny_llama_onnx))
    coded = (90 - sinks - recent) // 16 * 16 if recent else 90
    for layer in range(2):
        for side in "kv":
            found = [x for other, s, x in seen if (other, s) == (layer, side)]
            assert sum(x.shape[1] for x in found) == coded
            assert all(x.any(axis=(0, 2)).all() for x in found)  # never what was recoded before
    # The first page is recoded behind the chunk that ends at 40 tokens, or at 10.
    first = 40 if recent else 10
    np.testing.assert_allclose(changed[:first], exact[:first], atol=1e-4)
    assert np.abs(changed[first:] - exact[first:]).max() > 1e-3


def test_what_was_recoded_stays(session) -> None:
    """The page that is being filled is written again with every chunk: from what the codec gave, then."""
    recoded = RecodedSession(session, lambda _layer, _side, x: np.zeros_like(x), sinks=0, recent=0, page=16)
    logits(recoded)
    table = session.page_table[0]
    for layer in range(2):
        for side in "kv":
            for page in table[:3]:
                assert not session.read_state(layer, f"{side}_codes")[page].any()


def test_rejects_a_long_chunk_and_other_artifacts(tiny_llama_onnx, compiled, session) -> None:
    with pytest.raises(SessionError, match="longer than a page"):
        RecodedSession(session, lambda _layer, _side, x: x, page=16).prefill(IDS[:17])
    other = tqc.load(compiled(tiny_llama_onnx, **(EXACT | {"recent": 32})))
    with pytest.raises(SessionError, match="cannot be recoded"):
        RecodedSession(other, lambda _layer, _side, x: x)
