from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")

from tqc.errors import ExportError  # noqa: E402
from tqc.models.tiny import END_ID, byte_tokenizer, export_tiny, tiny_model  # noqa: E402


def torch_logits(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids)).logits.float().numpy()


def onnx_logits(path: Path, ids: np.ndarray, chunk: int) -> np.ndarray:
    """Logits of all tokens, fed `chunk` at a time through the cache."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    past = {
        item.name: np.zeros((len(ids), item.shape[1], 0, item.shape[3]), dtypes[item.type])
        for item in session.get_inputs()
        if item.name.startswith("past_key_values")
    }
    seen = []
    for start in range(0, ids.shape[1], chunk):
        part = ids[:, start : start + chunk]
        total = start + part.shape[1]
        feeds = {
            "input_ids": part,
            "attention_mask": np.ones((len(ids), total), np.int64),
            "position_ids": np.broadcast_to(np.arange(start, total), part.shape),
        }
        logits, *present = session.run(None, feeds | past)
        past = dict(zip(past, present, strict=True))
        seen.append(logits)
    return np.concatenate(seen, axis=1)


@pytest.mark.parametrize(
    "options",
    [
        {"arch": "llama"},
        {"arch": "llama", "heads": 3, "kv_heads": 1, "tied": True},
        {"arch": "mistral", "window": 16},
        {"arch": "qwen2"},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_the_exported_graph_computes_what_torch_computes_in_any_chunks(tiny_onnx, options):
    ids = np.random.default_rng(0).integers(0, 256, (2, 39))
    expected = torch_logits(tiny_model(**options), ids)
    path = tiny_onnx(**options)
    assert expected.std() > 0.5
    for chunk in (39, 20, 1):
        np.testing.assert_allclose(onnx_logits(path, ids, chunk), expected, atol=5e-4)


def test_the_window_is_in_the_graph(tiny_onnx):
    ids = np.random.default_rng(0).integers(0, 256, (1, 39))
    changed = ids.copy()
    changed[0, 0] ^= 1
    path = tiny_onnx(arch="mistral", window=16)
    before, after = onnx_logits(path, ids, 39), onnx_logits(path, changed, 39)
    # Two layers of 16 tokens reach back 30 positions at most.
    assert np.abs(before - after)[0, :16].max() > 1e-2
    np.testing.assert_array_equal(before[0, 31:], after[0, 31:])


def test_fp16_graph_has_fp16_weights_and_cache(tiny_llama_fp16_onnx):
    graph = onnx.load(str(tiny_llama_fp16_onnx)).graph
    cache = [item for item in graph.input if item.name.startswith("past_key_values")]
    assert {item.type.tensor_type.elem_type for item in cache} == {onnx.TensorProto.FLOAT16}
    weights = [weight for weight in graph.initializer if len(weight.raw_data) > 1024]
    # The exporter casts what follows the softmax to fp32, and with it one projection of each layer.
    assert sum(weight.data_type != onnx.TensorProto.FLOAT16 for weight in weights) == 2
    assert len(weights) == 16
    ids = np.random.default_rng(0).integers(0, 256, (1, 20))
    np.testing.assert_allclose(onnx_logits(tiny_llama_fp16_onnx, ids, 7), torch_logits(tiny_model(), ids), atol=0.2)


def test_biases_and_norms_are_not_trivial():
    model = tiny_model("qwen2")
    flat = [p for p in model.parameters() if p.dim() == 1]
    assert all(p.std() > 0.05 for p in flat)


def test_the_seed_decides_the_weights():
    same = [next(iter(tiny_model(seed=seed).parameters())).detach().numpy() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(same[0], same[1])
    assert not np.array_equal(same[0], same[2])


def test_byte_tokenizer_gives_bytes_back(tiny_llama_onnx):
    for tokenizer in (byte_tokenizer(), Tokenizer.from_file(str(tiny_llama_onnx.parent / "tokenizer.json"))):
        text = "Grüße, 世界!\n\x00\x7f"
        ids = tokenizer.encode(text).ids
        assert ids == list(text.encode())
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode("<end>").ids == [END_ID]


def test_reject_unknown_architecture_and_window_without_mistral(tmp_path):
    with pytest.raises(ExportError, match="unknown tiny architecture"):
        export_tiny(tmp_path, arch="mamba")
    with pytest.raises(ExportError, match="sliding window"):
        export_tiny(tmp_path, arch="llama", window=16)
