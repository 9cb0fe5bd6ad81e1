from __future__ import annotations

import re

import onnx
import pytest

pytest.importorskip("torch")

from tqc.errors import ExportError
from tqc.models.forms import FORMS, Zoo, main

FEATURES = {
    "torchscript14": (14, "Softmax"),
    "dynamo23": (23, "RMSNormalization"),
    "q4": (17, "MatMulNBits"),
    "fused": (14, "SkipSimplifiedLayerNormalization"),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("form", FEATURES)
def test_a_form_has_its_opset_and_its_operators(zoo, form):
    path = zoo.path("llama", form)
    model = onnx.load(path, load_external_data=False)
    opset, op = FEATURES[form]
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == opset
    assert any(node.op_type == op for node in model.graph.node)
    inputs = {entry.name for entry in model.graph.input}
    assert inputs >= {"input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.1.value"}


def test_the_builder_groups_queries(zoo):
    pytest.importorskip("onnxruntime_genai", reason="the model builder comes with the extra `dev`")
    model = onnx.load(zoo.path("llama", "genai-fp32"), load_external_data=False)
    assert sum(node.op_type == "GroupQueryAttention" for node in model.graph.node) == 2


def test_half_precision_reaches_inputs_and_weights(zoo):
    graph = onnx.load(zoo.path("llama", "fp16")).graph
    types = {entry.name: entry.type.tensor_type.elem_type for entry in graph.input}
    assert types["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    assert all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in graph.initializer)


def test_a_file_is_made_once(zoo):
    first = zoo.path("llama", "torchscript14")
    assert first.stat().st_mtime_ns == zoo.path("llama", "torchscript14").stat().st_mtime_ns
    assert not list(zoo.root.glob(".export-*"))


def test_the_command_names_the_file(tmp_path, capsys):
    main(["llama", "torchscript17", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "llama-torchscript17" / "model.onnx")


def test_unknown_names_are_refused(zoo):
    for family, form, message in (("mamba", "q4", "unknown family"), ("llama", "tflite", "unknown form")):
        with pytest.raises(ExportError, match=message):
            zoo.path(family, form)


def test_forms_are_named_after_their_exporter():
    assert all(re.fullmatch(r"(torchscript|dynamo)\d\d(-\w+)?|genai-[\w-]+|fp16|q\d\w*|fused", form) for form in FORMS)
