from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tqc.frontend.canonical import LayerInfo
from tqc.frontend.imported import Imported
from tqc.frontend.report import describe, describe_layer, report, report_of
from tqc.frontend.rope_form import RopeForm
from tqc.frontend.weights import ArrayTensor, Weight

ROPE = RopeForm(dims=64, theta=10000.0, slowest=1e-4, scaling=1.0, interleaved=False)
CACHE = {"past": ("past.0.key", "past.0.value"), "present": ("present.0.key", "present.0.value")}
PLAIN = LayerInfo(0, 9, 3, 64, 0.125, 0.0, 0, "/model/layers.0/Softmax", rope=ROPE, **CACHE)
RICH = LayerInfo(1, 8, 4, 256, 0.0625, 50.0, 4096, "/model/layers.1/Softmax", sinks=True)


def test_a_plain_layer():
    assert describe_layer(PLAIN) == (
        "layer 0, 9 query heads, 3 KV heads, head_dim 64, scale 0.125, causal, rope (theta 10000, 64 dims), "
        "cache past.0.key, past.0.value → present.0.key, present.0.value, at /model/layers.0/Softmax"
    )


def test_softcap_sinks_and_window_are_told():
    assert "softcap 50, sinks, causal, window 4096, no rope, at" in describe_layer(RICH)


def _imported() -> Imported:
    weight = Weight("w", (1000, 500), "float32", ArrayTensor(np.zeros((1000, 500), np.float32)), "w")
    return Imported(None, {"w": weight}, (PLAIN, RICH), 49152, "float32", 17, Path("/m/model.onnx"), "0")


def test_a_model():
    head, *layers = describe(_imported()).splitlines()
    assert head == "model.onnx: opset 17, float32 cache, vocabulary 49152, 2 layers, 1 weights of 2.0 MB"
    assert layers == [describe_layer(PLAIN), describe_layer(RICH)]


def test_an_accepted_model_as_json():
    found = json.loads(json.dumps(report_of(_imported()).as_json()))
    assert (found["accepted"], found["missing"], found["reasons"], found["error"]) == (True, [], [], None)
    assert (found["opset"], found["weight_bytes"], found["vocab_size"]) == (17, 2_000_000, 49152)
    first, second = found["layers"]
    assert (first["scale"], first["mask"], first["rope"]["theta"]) == (0.125, "causal", 10000.0)
    assert first["past"] == ["past.0.key", "past.0.value"]
    assert (second["mask"], second["sinks"], second["rope"]) == ("causal, window 4096", True, None)


def test_a_whole_model(exported):
    found = report(exported("mistral"))
    assert found.error is None
    assert [layer.mask for layer in found.layers] == ["causal, window 16"] * 2
    assert [(layer.rope.dims, layer.rope.theta) for layer in found.layers] == [(80, 10000.0)] * 2
    assert found.layers[1].past == ("past_key_values.1.key", "past_key_values.1.value")
    assert found.head().startswith("mistral.onnx: opset 17, float32 cache")


def test_a_refused_model(decoder, tmp_path):
    found = report(decoder(mask="dilated").save(tmp_path))
    assert "neither causal" in str(found.error)
    assert found.head() == "model.onnx: refused; 0 of 1 layers understood"
    assert found.as_json()["accepted"] is False
    (reason,) = found.reasons
    assert reason.startswith("layer 0, Softmax node_weights: Unknown mask (it is neither causal")


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no")
    found = report(tmp_path / "model.onnx")
    assert (found.layers, found.missing, found.reasons) == ((), (), ())
    assert "Not a readable ONNX file" in str(found.error)
