from __future__ import annotations

from pathlib import Path

import numpy as np

from tqc.frontend.canonical import LayerInfo
from tqc.frontend.imported import Imported
from tqc.frontend.report import describe, describe_layer
from tqc.frontend.weights import ArrayTensor, Weight

PLAIN = LayerInfo(0, 9, 3, 64, 0.125, 0.0, 0, "/model/layers.0/Softmax")
RICH = LayerInfo(1, 8, 4, 256, 0.0625, 50.0, 4096, "/model/layers.1/Softmax")


def test_a_plain_layer():
    assert describe_layer(PLAIN) == (
        "layer 0, 9 query heads, 3 KV heads, head_dim 64, scale 0.125, causal, at /model/layers.0/Softmax"
    )


def test_softcap_and_window_are_told():
    assert "softcap 50, window 4096" in describe_layer(RICH)


def test_a_model():
    weight = Weight("w", (1000, 500), "float32", ArrayTensor(np.zeros((1000, 500), np.float32)), "w")
    text = describe(Imported(None, {"w": weight}, (PLAIN, RICH), 49152, "float32", 17, Path("/m/model.onnx"), "0"))
    head, *layers = text.splitlines()
    assert head == "model.onnx: opset 17, float32 cache, vocabulary 49152, 2 layers, 1 weights of 2.0 MB"
    assert layers == [describe_layer(PLAIN), describe_layer(RICH)]
