from __future__ import annotations

import numpy as np
import pytest

import tqc
from tqc.errors import TqcError
from tqc.eval.distortion import measure_layers, shortest

IDS = [int(token) for token in np.random.default_rng(0).integers(0, 256, 500)]


@pytest.fixture(scope="module")
def measured(tiny_llama_onnx, compiled):
    return measure_layers(tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512)), IDS)


def test_real_codes_lose_what_the_theory_says(measured):
    assert [layer.layer for layer in measured] == [0, 1]
    for layer in measured:
        assert layer.vectors == 2 * 320
        assert layer.d_k == pytest.approx(layer.theory_k, rel=0.05)
        assert layer.d_v == pytest.approx(layer.theory_v, rel=0.05)
        assert layer.theory_v > 3 * layer.theory_k


def test_codes_are_unbiased(measured):
    for layer in measured:
        assert layer.slope_k == pytest.approx(1, abs=1e-3)
        assert layer.slope_v == pytest.approx(1, abs=1e-3)


def test_noise_of_logits_follows_the_law(measured):
    for layer in measured:
        assert layer.logit_sd == pytest.approx(layer.logit_law, rel=0.05)
        assert layer.logit_law == pytest.approx(layer.key_norm**2 * layer.theory_k**0.5 / 64)


def test_bits_are_those_stored(measured):
    assert {(layer.bits_k, layer.bits_v) for layer in measured} == {(4.25, 3.25)}


def test_without_logits_nothing_is_said_about_them(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    layer = measure_layers(session, IDS[:300], logits=False)[0]
    assert (layer.logit_sd, layer.logit_law, layer.query_norm) == (None, None, None)
    assert layer.d_k is not None


def test_an_exact_cache_loses_nothing(tiny_llama_onnx, compiled):
    for layer in measure_layers(tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512)), IDS[:300]):
        assert (layer.d_k, layer.d_v, layer.theory_k, layer.logit_sd) == (0, 0, 0, 0)


def test_a_short_text_is_refused(tiny_llama_onnx, compiled):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    assert shortest(session.manifest) == 196
    assert measure_layers(session, IDS[:196])
    with pytest.raises(TqcError, match="at least 196 tokens"):
        measure_layers(session, IDS[:195])


def test_damaged_vectors_are_refused(tiny_llama_onnx, compiled, monkeypatch):
    session = tqc.load(compiled(tiny_llama_onnx, kv="k4v3", max_context=512))
    read = session.read_state
    monkeypatch.setattr(session, "read_state", lambda *at: np.nan * read(*at) if "v_scale" in at else read(*at))
    with pytest.raises(TqcError, match="layer 0, V"):
        measure_layers(session, IDS[:200])
