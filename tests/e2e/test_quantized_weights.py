"""A model whose weights onnxruntime's quantizer packed: the artifact keeps them packed and computes the same."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from references import onnx_logits, random_ids
from safetensors import safe_open

import tqc

quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="needs onnx_ir")

PACKED_TYPES = (TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
FORMS = {
    "int4-points": ("tiny_qwen2_onnx", {"bits": 4, "block_size": 128, "is_symmetric": False}),
    "int8": ("tiny_llama_onnx", {"bits": 8, "block_size": 64, "is_symmetric": False}),
    "int4-half": ("tiny_llama_fp16_onnx", {"bits": 4, "block_size": 32, "is_symmetric": True}),
}


def quantize(model, folder, change=lambda _: None, **options):
    """A copy of `model` in `folder` with packed weights, changed by `change`; 4-bit ones with a packed embedding."""
    shutil.copytree(model.parent, folder)
    ops = ("MatMul", "Gather") if options["bits"] == 4 else ("MatMul",)
    made = quantizer.MatMulNBitsQuantizer(onnx.load(folder / "model.onnx"), **options, op_types_to_quantize=ops)
    made.process()
    for entry in made.model.opset_import():
        if not entry.domain:
            entry.version = 17  # the quantizer writes 21 where it stores int4, and leaves the nodes as they are
    for path in folder.glob("model.onnx*"):
        path.unlink()
    change(made.model.model.graph)
    made.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=True)
    return folder / "model.onnx"


@pytest.fixture(scope="module", params=FORMS)
def quantized(request, tmp_path_factory):
    name, options = FORMS[request.param]
    return quantize(request.getfixturevalue(name), tmp_path_factory.mktemp(request.param) / "model", **options)


def test_logits_and_what_is_stored(quantized, compiled):
    kinds = [node.op_type for node in onnx.load(quantized, load_external_data=False).graph.node]
    assert kinds.count("MatMulNBits") == 15
    artifact = compiled(quantized, kv="fp32", max_context=64)
    half = "half" in str(quantized)
    ids = random_ids(40)
    expected = onnx_logits(quantized, ids)
    assert expected.std() > 0.5
    session = tqc.load(artifact)
    (actual,) = session.prefill(ids[:33], all_logits=True)
    decoded = np.stack([session.decode([token])[0] for token in ids[33:]])
    np.testing.assert_allclose(np.concatenate([actual, decoded]), expected, rtol=0, atol=0.1 if half else 1e-4)

    stored = parameters(artifact)
    packed = sum(array.nbytes for array in stored.values() if array.dtype == np.uint8)
    initialisers = onnx.load(quantized).graph.initializer
    source = sum(len(tensor.raw_data) for tensor in initialisers if tensor.data_type in PACKED_TYPES)
    assert source <= packed <= source * 1.1  # the vocabulary is filled up to whole blocks of columns
    if "GatherBlockQuantized" in kinds:
        assert max(array.size for array in stored.values() if array.dtype.kind == "f") < packed / 8


def tie(graph):
    """Makes the embedding the vocabulary matrix, as onnxruntime's model builder does: by reshapes of its parts."""
    head = next(node for node in graph.node if node.op_type == "MatMulNBits" and "lm_head" in node.name)
    gather = next(node for node in graph.node if node.op_type == "GatherBlockQuantized")
    shape = numpy_helper.from_array(np.array([272, -1]), "flat_shape")
    graph.initializer.append(shape)
    graph.node.insert(0, helper.make_node("Reshape", [head.input[1], shape.name], ["flat"], name="flatten"))
    gather.input[0], gather.input[2] = "flat", head.input[2]
    gather.attribute.append(helper.make_attribute("bits", 4))


def test_a_tied_embedding_is_stored_once(tiny_llama_onnx, tmp_path, compiled):
    model = quantize(tiny_llama_onnx, tmp_path / "tied", tie, bits=4, block_size=32, is_symmetric=True)
    artifact, ids = compiled(model, kv="fp32", max_context=64), random_ids(20)
    (actual,) = tqc.load(artifact).prefill(ids, all_logits=True)
    np.testing.assert_allclose(actual, onnx_logits(model, ids), rtol=0, atol=1e-4)
    vocabulary = [array.shape for array in parameters(artifact).values() if len(array) == -(-272 // 32)]
    assert sorted(vocabulary) == [(9, 8, 32), (9, 32, 128)]  # scales and numbers, once


def parameters(artifact):
    with safe_open(artifact / "params.safetensors", "np") as params:
        return {name: params.get_tensor(name) for name in params.keys()}
