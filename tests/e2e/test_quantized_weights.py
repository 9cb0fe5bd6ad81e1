"""A model whose weights onnxruntime's quantizer packed: the artifact keeps them packed and computes the same."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from references import onnx_logits, random_ids
from safetensors import safe_open

import tqc

quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="needs onnx_ir")

FORMS = {
    "int4": ("tiny_llama_onnx", {"bits": 4, "block_size": 32, "is_symmetric": True}),
    "int4-points": ("tiny_qwen2_onnx", {"bits": 4, "block_size": 128, "is_symmetric": False}),
    "int8": ("tiny_llama_onnx", {"bits": 8, "block_size": 64, "is_symmetric": False}),
    "int4-half": ("tiny_llama_fp16_onnx", {"bits": 4, "block_size": 32, "is_symmetric": True}),
}


@pytest.fixture(scope="module", params=FORMS)
def quantized(request, tmp_path_factory):
    """The model in a folder of its own; 4-bit ones with a quantized embedding."""
    name, options = FORMS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "model"
    shutil.copytree(request.getfixturevalue(name).parent, folder)
    ops = ("MatMul", "Gather") if options["bits"] == 4 else ("MatMul",)
    made = quantizer.MatMulNBitsQuantizer(onnx.load(folder / "model.onnx"), **options, op_types_to_quantize=ops)
    made.process()
    for entry in made.model.opset_import():
        if not entry.domain:
            entry.version = 17  # the quantizer writes 21 where it stores int4, and leaves the nodes as they are
    for path in folder.glob("model.onnx*"):
        path.unlink()
    made.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=True)
    return folder / "model.onnx"


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

    with safe_open(artifact / "params.safetensors", "np") as params:
        stored = {name: params.get_tensor(name) for name in params.keys()}  # noqa: SIM118
    widest = max((array for array in stored.values() if array.dtype.kind == "f"), key=lambda array: array.size)
    packed = sum(array.nbytes for array in stored.values() if array.dtype == np.uint8)
    initialisers = onnx.load(quantized).graph.initializer
    source = sum(len(tensor.raw_data) for tensor in initialisers if tensor.data_type in (2, 21, 22) and tensor.dims[1:])
    assert source <= packed <= source * 1.1  # the vocabulary is filled up to whole blocks of columns
    assert widest.size < packed / 8 or kinds.count("GatherBlockQuantized") == 0
    assert json.loads((artifact / "manifest.json").read_text())
