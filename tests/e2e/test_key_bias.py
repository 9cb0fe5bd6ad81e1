"""A Qwen2 model with a large key bias in one layer, compiled."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="models are exported with the extra `export`")

from tqc.artifact import read_manifest  # noqa: E402
from tqc.compiler import CompileOptions, compile_model  # noqa: E402
from tqc.models import trace  # noqa: E402
from tqc.models.tiny import byte_tokenizer, tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """model.onnx, whose layer 1 has a bias on the pair that turns by one radian a token."""
    folder = tmp_path_factory.mktemp("biased")
    model = tiny_model("qwen2")
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.bias[0] = 700.0
    path = trace.write_onnx(model, folder)
    model.config.save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return path


@pytest.mark.parametrize("protect", [True, False])
def test_keys_with_a_large_bias_get_eight_bits(biased, tmp_path, protect):
    seen = []
    path = compile_model(
        CompileOptions(biased, tmp_path / "m.tqc", protect=protect, max_context=512, chosen=seen.append)
    )
    layers = [(layer.k, layer.v) for layer in read_manifest(path).layers]
    assert layers == [("tq4", "tq4"), ("tq8" if protect else "tq4", "tq4")]
    assert list(seen[0].protected) == ([1] if protect else [])
