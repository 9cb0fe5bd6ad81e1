"""What one coded side of one layer changes in the predictions, against sessions of the whole model."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tqc.compiler.sensitivity import can_measure, sensitivities
from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.frontend.imported import open_model

SKIP = 3
IDS = np.random.default_rng(0).integers(0, 64, 48)


@pytest.fixture(scope="module")
def opened(tiny_llama_onnx):
    return open_model(tiny_llama_onnx), import_model(tiny_llama_onnx).interface


def noise(strength: float):
    def recode(layer: int, side: str, vectors: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(layer)
        return vectors + np.float32(strength) * random.standard_normal(vectors.shape, np.float32)

    return recode


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def test_as_sessions_of_the_whole_model_say(opened, tiny_llama_onnx) -> None:
    model, interface = opened
    found = sensitivities(model, interface, IDS, noise(0.5), skip=SKIP)
    assert set(found) == {(layer, side) for layer in range(len(interface.layers)) for side in "kv"}

    session = ort.InferenceSession(tiny_llama_onnx, providers=["CPUExecutionProvider"])
    half = len(IDS) // 2
    pasts = [name for x in interface.layers for name in (x.past_key, x.past_value)]
    presents = [name for x in interface.layers for name in (x.present_key, x.present_value)]
    others = {entry.name for entry in session.get_inputs()} - {"input_ids", *pasts}

    def run(ids: np.ndarray, past: dict[str, np.ndarray]) -> list[np.ndarray]:
        begin = next(iter(past.values())).shape[2]
        feeds = {"input_ids": ids[None], **past}
        known = {
            "attention_mask": np.ones((1, begin + len(ids)), np.int64),
            "position_ids": np.arange(begin, begin + len(ids), dtype=np.int64)[None],
        }
        return session.run([interface.logits, *presents], feeds | {name: known[name] for name in others})

    empty = {name: np.zeros((1, x.kv_heads, 0, x.head_dim), x.dtype) for x in interface.layers for name in _names(x)}
    past = dict(zip(pasts, run(IDS[:half], empty)[1:], strict=True))
    exact = _softmax(run(IDS[half:], past)[0])
    for (layer, side), value in found.items():
        name = _names(interface.layers[layer])[side == "v"]
        coded = past[name].copy()
        coded[0, :, SKIP:] = noise(0.5)(layer, side, coded[0, :, SKIP:])
        changed = _softmax(run(IDS[half:], past | {name: coded})[0])
        assert value == pytest.approx((exact * np.log(exact / changed)).sum(axis=-1).mean(), rel=1e-3, abs=1e-9)


def _names(cache) -> tuple[str, str]:
    return cache.past_key, cache.past_value


def test_exact_vectors_change_nothing_and_more_noise_changes_more(opened) -> None:
    model, interface = opened
    none, little, much = (sensitivities(model, interface, IDS, noise(x), skip=SKIP) for x in (0, 0.1, 1))
    for place in none:
        assert abs(none[place]) < 1e-9 < little[place] < much[place]


def test_a_text_within_the_sinks_says_nothing(opened) -> None:
    model, interface = opened
    assert set(sensitivities(model, interface, IDS[:6], noise(1), skip=4).values()) == {0.0}


def test_large_models_are_left_alone(opened, monkeypatch) -> None:
    model, _ = opened
    assert can_measure(model)
    monkeypatch.setattr("tqc.compiler.sensitivity.LARGEST", 1000)
    assert not can_measure(model)


def test_reject_what_onnxruntime_cannot_run(opened) -> None:
    model, interface = opened
    with pytest.raises(FrontendError, match="cannot run the model behind a cache"):
        sensitivities(model, interface, np.full(48, 1 << 20), noise(1), skip=SKIP)
