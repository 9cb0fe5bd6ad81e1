"""What coded pasts change in the predictions, against sessions of the whole model."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tqc.compiler.sensitivity import sensitivities
from tqc.compiler.trial import TOKENS, Trial, can_measure
from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.frontend.imported import open_model

SKIP = 3
IDS = np.random.default_rng(0).integers(0, 64, 48)


@pytest.fixture(scope="module")
def opened(tiny_llama_onnx):
    return open_model(tiny_llama_onnx), import_model(tiny_llama_onnx).interface


def noise(layer: int, side: str, name: str, vectors: np.ndarray) -> np.ndarray:
    """Noise of the strength that is the scheme's name."""
    random = np.random.default_rng(layer)
    return vectors + np.float32(name) * random.standard_normal(vectors.shape, np.float32)


def trial_of(opened, ids=IDS, *, recode=noise, skip: int = SKIP) -> Trial:
    return Trial(*opened, ids, recode, skip=skip)


def everywhere(trial: Trial, name: str) -> dict:
    return dict.fromkeys(trial.places, name)


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def test_as_sessions_of_the_whole_model_say(opened, tiny_llama_onnx) -> None:
    _, interface = opened
    trial = trial_of(opened)
    session = ort.InferenceSession(tiny_llama_onnx, providers=["CPUExecutionProvider"])
    begin = len(IDS) - trial.predictions
    pasts = [name for x in interface.layers for name in _names(x)]
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
    past = dict(zip(pasts, run(IDS[:begin], empty)[1:], strict=True))
    exact = _softmax(run(IDS[begin:], past)[0])

    def expected(schemes: dict) -> float:
        coded = {}
        for (layer, side), strength in schemes.items():
            name = _names(interface.layers[layer])[side == "v"]
            coded[name] = past[name].copy()
            coded[name][0, :, SKIP:] = noise(layer, side, strength, coded[name][0, :, SKIP:])
        changed = _softmax(run(IDS[begin:], past | coded)[0])
        return (exact * np.log(exact / changed)).sum(axis=-1).mean()

    for schemes in ({(0, "k"): "0.5"}, {(1, "v"): "0.5"}, everywhere(trial, "0.25"), {(0, "v"): "0.1", (1, "k"): "1"}):
        assert trial.divergence(schemes) == pytest.approx(expected(schemes), rel=1e-3, abs=1e-9)


def _names(cache) -> tuple[str, str]:
    return cache.past_key, cache.past_value


def test_exact_vectors_change_nothing_and_more_noise_changes_more(opened) -> None:
    trial = trial_of(opened)
    none, little, much = (sensitivities(trial, x) for x in ("0", "0.1", "1"))
    assert set(none) == {(layer, side) for layer in range(len(opened[1].layers)) for side in "kv"}
    for place in none:
        assert none[place] == 0 < little[place] < much[place]


def test_a_scheme_of_a_place_is_coded_once(opened) -> None:
    seen = []

    def recode(layer: int, side: str, name: str, vectors: np.ndarray) -> np.ndarray:
        seen.append((layer, side, name))
        return noise(layer, side, name, vectors)

    trial = trial_of(opened, recode=recode)
    first = trial.divergence(everywhere(trial, "0.5"))
    trial.divergence(everywhere(trial, "0.5") | {(0, "k"): "1"})
    assert trial.divergence(everywhere(trial, "0.5")) == first
    assert len(seen) == len(set(seen)) == len(trial.places) + 1


def test_a_past_within_the_sinks_says_nothing(opened) -> None:
    trial = trial_of(opened, IDS[:8], skip=6)
    assert trial.divergence(everywhere(trial, "1")) == 0


def test_the_last_tokens_of_a_long_text(opened) -> None:
    long = np.random.default_rng(1).integers(0, 64, TOKENS + 100)
    whole, end = trial_of(opened, long), trial_of(opened, long[100:])
    assert whole.predictions == end.predictions == TOKENS // 4
    assert whole.divergence(everywhere(whole, "0.5")) == end.divergence(everywhere(end, "0.5"))


def test_large_models_are_left_alone(opened, monkeypatch) -> None:
    model, _ = opened
    assert can_measure(model)
    monkeypatch.setattr("tqc.compiler.trial.LARGEST", 1000)
    assert not can_measure(model)


def test_reject_what_onnxruntime_cannot_run(opened) -> None:
    with pytest.raises(FrontendError, match="cannot run the model behind a cache"):
        trial_of(opened, np.full(48, 1 << 20))
