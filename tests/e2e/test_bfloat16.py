"""A bfloat16 model keeps its weights' type and computes what the same weights in float32 compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from references import onnx_logits, random_ids

import tqc
from tqc.artifact.params import read_places

LENGTH = 220


@pytest.fixture(scope="module")
def brain_onnx(tmp_path_factory):
    """With biases, and an embedding that is the last layer's matrix too; torch's older exporter takes no bfloat16."""
    torch = pytest.importorskip("torch", reason="models are exported with the extra `export`")
    from tqc.models import dynamo, tiny

    folder = tmp_path_factory.mktemp("brain")
    tiny.byte_tokenizer().save(str(folder / "tokenizer.json"))
    return dynamo.write_onnx(tiny.tiny_model("qwen2", tied=True).to(torch.bfloat16), folder, opset=18)


@pytest.fixture(scope="module")
def wide_onnx(brain_onnx, tmp_path_factory):
    """The same graph and numbers in float32, for onnxruntime, whose CPU kernels take no bfloat16."""
    model = onnx.load(brain_onnx)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
            if attribute.t.data_type == TensorProto.BFLOAT16:
                value = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(value))
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            info.type.tensor_type.elem_type = TensorProto.FLOAT
    del model.graph.value_info[:]
    path = tmp_path_factory.mktemp("wide") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("kv", "tolerance"), [("fp32", 1e-3), ("tq4", 2.0)])
def test_logits_of_the_same_weights(brain_onnx, wide_onnx, compiled, kv, tolerance):
    ids = random_ids(LENGTH)
    expected = onnx_logits(wide_onnx, ids)
    session = tqc.load(compiled(brain_onnx, kv=kv, max_context=512))
    found = np.concatenate([session.prefill(ids[:-20], all_logits=True)[0], *(session.decode([i]) for i in ids[-20:])])
    assert np.abs(found - expected).max() < tolerance
    cosine = (found * expected).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosine.min() > 0.9
    assert np.median(cosine) > 0.99


def test_weights_stay_as_they_are(brain_onnx, compiled):
    places = read_places(compiled(brain_onnx, kv="tq4", max_context=512) / "params.safetensors")
    matrices = [place for place in places.values() if len(place.shape) > 1 and "mean" not in place.name]
    assert matrices
    assert {place.dtype for place in matrices} == {"bfloat16"}
