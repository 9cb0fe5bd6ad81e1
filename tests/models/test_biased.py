"""Key biases as large as Qwen2's that hardly change what a model says."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="models are made with the extra `export`")

from tqc.errors import ExportError  # noqa: E402
from tqc.models.biased import LENGTHS, biased_qwen2  # noqa: E402
from tqc.models.tiny import tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def llama():
    return tiny_model(layers=5, heads=4, kv_heads=2, tied=True)


def logits(model):
    ids = torch.arange(96)[None] * 7 % 272
    with torch.no_grad():
        return model(ids).logits[0]


def test_without_biases_the_function_is_the_same(llama):
    made = biased_qwen2(llama, layers=())
    assert made.config.model_type == "qwen2"
    assert made.config.rope_parameters == llama.config.rope_parameters
    torch.testing.assert_close(logits(made), logits(llama), rtol=1e-4, atol=1e-4)


def test_outer_layers_get_long_biases(llama):
    made = biased_qwen2(llama)
    for number, layer in enumerate(made.model.layers):
        lengths = layer.self_attn.k_proj.bias.detach().view(2, 64).norm(dim=1)
        expected = [0.0, 0.0] if number == 2 else LENGTHS[:2]
        assert lengths.tolist() == pytest.approx(list(expected), rel=1e-5)
        assert not layer.self_attn.q_proj.bias.any()
        assert not layer.self_attn.v_proj.bias.any()


def test_one_pair_turns_and_one_hardly_does(llama):
    bias = biased_qwen2(llama).model.layers[0].self_attn.k_proj.bias.detach().view(2, 2, 32)
    for head in bias.square().sum(dim=1):
        first, second = head.nonzero().flatten().tolist()
        assert first < 28 <= second
        torch.testing.assert_close(head[first], head[second])


def test_the_model_says_nearly_the_same(llama):
    plain, biased = logits(llama).log_softmax(-1), logits(biased_qwen2(llama)).log_softmax(-1)
    kl = (plain.exp() * (plain - biased)).sum(-1).mean()
    # What the same biases do where the queries are as they were.
    loud = biased_qwen2(llama)
    for before, after in zip(llama.model.layers, loud.model.layers, strict=True):
        after.self_attn.q_proj.weight.data.copy_(before.self_attn.q_proj.weight)
    other = logits(loud).log_softmax(-1)
    assert kl < 0.5 * (plain.exp() * (plain - other)).sum(-1).mean()


def test_other_architectures_are_refused(llama):
    with pytest.raises(ExportError, match="does not fit Qwen2"):
        biased_qwen2(tiny_model("mistral"))
