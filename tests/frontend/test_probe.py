from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.graph import Node
from tqc.frontend.load import load
from tqc.frontend.probe import Probe, feed
from tqc.frontend.setting import Setting


def _graph(decoder, tmp_path):
    return build(load(decoder.save(tmp_path)))


def test_values_of_sizes_and_masks_equal_the_whole_model(decoder, tmp_path):
    model = decoder(mask="window")
    graph = _graph(model, tmp_path)
    setting = Setting(2, 5, 9)
    seen = Probe(graph, {"added", "total_size"}, {"residual", "keys_turned"}).run(setting)
    i, j = 9 + np.arange(5)[:, None], np.arange(14)
    np.testing.assert_array_equal(seen.values["added"] == 0, (j <= i) & (j > i - 6))
    assert seen.values["total_size"] == 14
    assert seen.shapes == {"residual": (2, 5, 32), "keys_turned": (2, 4, 16, 14)}


def test_no_weight_is_read(decoder, tmp_path, monkeypatch):
    graph = _graph(decoder(), tmp_path)
    for weight in graph.weights.values():
        monkeypatch.setattr(type(weight.source), "read", lambda self: pytest.fail("a weight was read"))
    assert Probe(graph, set(), {"logits"}).run(Setting(1, 2, 3)).shapes["logits"] == (1, 2, 40)


def test_cache_contents_are_those_of_feed(decoder, tmp_path):
    graph = _graph(decoder(), tmp_path)
    setting = Setting(2, 3, 5)
    entry = graph.inputs["past_key_values.0.key"]
    past = feed(entry.name, entry.dtype, entry.shape, setting)
    seen = Probe(graph, {"present.0.key"}).run(setting)
    np.testing.assert_array_equal(seen.values["present.0.key"][:, :, :5], past)
    other = graph.inputs["past_key_values.0.value"]
    assert not np.array_equal(past, feed(other.name, other.dtype, other.shape, setting))


def test_weights_outside_products_are_zeros_of_their_shape(decoder, tmp_path):
    model = decoder()
    bias = model.weight("bias", 40, 3)
    model.nodes[-1].output[0] = "logits_3"
    model.add("MatMul", ["logits_3", bias], "narrow")
    model.add("MatMul", ["narrow", model.weight("widen", 3, 40)], "wide")
    model.add("Mul", [model.weight("square", 40, 40), model.weight("other_square", 40, 40)], "table")
    model.add("Gemm", ["table", model.weight("w_gemm", 7, 40)], "gemm", transB=1)
    model.add("ReduceSum", ["gemm"], "sum", keepdims=0)
    model.add("Add", ["wide", "sum"], "logits")
    graph = _graph(model, tmp_path)
    seen = Probe(graph, {"table"}, {"logits", "gemm"}).run(Setting(2, 3, 1))
    assert not seen.values["table"].any()
    assert seen.shapes == {"logits": (2, 3, 40), "gemm": (40, 7)}


@pytest.mark.parametrize("op", ["Gelu", "LayerNormalization"])
def test_operations_that_are_newer_than_the_graph(decoder, tmp_path, op):
    graph = _graph(decoder(), tmp_path)
    graph.define(Node(op, ["logits"], ["wrapped"]))
    graph.outputs["logits"], graph.opset = "wrapped", 14
    graph.prune()
    assert Probe(graph, set(), {"wrapped"}).run(Setting(1, 2, 3)).shapes["wrapped"] == (1, 2, 40)


def test_padding_and_positions():
    setting = Setting(2, 3, 4, padding=2)
    np.testing.assert_array_equal(setting.mask(), [[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    np.testing.assert_array_equal(setting.positions(), [[2, 3, 4], [4, 5, 6]])


def test_a_graph_that_cannot_be_loaded(decoder, tmp_path):
    model = decoder()
    next(node for node in model.nodes if node.output[0] == "present.0.key").attribute[0].i = 9
    graph = _graph(model, tmp_path)
    with pytest.raises(FrontendError, match="cannot be loaded in onnxruntime"):
        Probe(graph, set(), {"present.0.key"}).run(Setting(1, 2, 3))


def test_a_graph_that_fails_at_some_size(decoder, tmp_path):
    model = decoder()
    split = next(node for node in model.nodes if node.output[0] == "q_split")
    split.input[1] = model.ints(0, 3, 4, 16)
    probe = Probe(_graph(model, tmp_path), set(), {"q"})
    assert probe.run(Setting(2, 3, 1)).shapes["q"] == (2, 4, 3, 16)
    with pytest.raises(FrontendError, match=r"fails with Setting\(batch=2, seq=5"):
        probe.run(Setting(2, 5, 1))


def test_onnxruntime_accepts_the_decoder(decoder, tmp_path):
    """The handmade decoder that all these tests vary is a valid model."""
    session = ort.InferenceSession(decoder().save(tmp_path), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_outputs()] == ["logits", "present.0.key", "present.0.value"]


def test_a_wanted_tensor_may_be_an_input(decoder, tmp_path):
    graph = build(load(decoder().save(tmp_path)))
    seen = Probe(graph, {"attention_mask"}).run(Setting(2, 3, 5))
    np.testing.assert_array_equal(seen.values["attention_mask"], np.ones((2, 8)))
