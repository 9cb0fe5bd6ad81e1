from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from tqc.errors import SessionError
from tqc.eval.fidelity import compare
from tqc.eval.onnx_session import OnnxSession

IDS = [int(token) for token in np.random.default_rng(0).integers(0, 256, 40)]


def whole_text_logits(path) -> np.ndarray:
    """All logits in one call of onnxruntime with an empty past and no IO binding."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": [IDS], "attention_mask": [[1] * len(IDS)], "position_ids": [list(range(len(IDS)))]}
    feeds = {name: np.array(value, np.int64) for name, value in feeds.items()}
    for item in session.get_inputs():
        if item.name.startswith("past_key_values"):
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    return session.run(["logits"], feeds)[0][0]


def test_prefill_chunks_and_decode_give_the_logits_of_one_call(tiny_llama_onnx):
    session = OnnxSession(tiny_llama_onnx, threads=1)
    expected = whole_text_logits(tiny_llama_onnx)
    first = session.prefill(IDS[:17], all_logits=True)
    second = session.prefill(IDS[17:30])
    rest = [session.decode([token]) for token in IDS[30:]]
    np.testing.assert_allclose(first, expected[:17], atol=1e-4)
    np.testing.assert_allclose(second, expected[29:30], atol=1e-4)
    np.testing.assert_allclose(np.concatenate(rest), expected[30:], atol=1e-4)
    assert session.length == 40


def test_kv_bytes_are_those_of_the_float_cache(tiny_llama_onnx, tiny_llama_fp16_onnx):
    for path, bytes_per_value in ((tiny_llama_onnx, 4), (tiny_llama_fp16_onnx, 2)):
        session = OnnxSession(path, threads=1)
        assert session.kv_bytes == 0
        session.prefill(IDS)
        assert session.kv_bytes == 2 * 2 * 2 * 64 * bytes_per_value * len(IDS)


def test_reset_forgets(tiny_llama_onnx):
    session = OnnxSession(tiny_llama_onnx, threads=1)
    before = session.prefill(IDS)
    session.reset()
    assert (session.length, session.kv_bytes) == (0, 0)
    np.testing.assert_array_equal(session.prefill(IDS), before)


def test_feeding_in_chunks_or_by_token_compares_equal(tiny_llama_onnx):
    one, other = OnnxSession(tiny_llama_onnx, threads=1), OnnxSession(tiny_llama_onnx, threads=1)
    for chunk in (1, 8):
        result = compare(one, {"other": other}, IDS, chunk=chunk)["other"]
        assert (result.tokens, result.agreement, result.max_difference) == (39, 1.0, 0.0)


def test_reject_a_model_without_cache(tmp_path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1,)) for name in ("x", "logits"))
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["logits"])], "g", [x], [y])
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(SessionError, match="no cache inputs"):
        OnnxSession(path)
