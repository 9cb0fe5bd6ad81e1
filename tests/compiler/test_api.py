"""`tqc.compile` on programs of torch.export: the artifact computes what torch computes."""

from __future__ import annotations

import numpy as np
import pytest

import tqc
from tqc.errors import PassError

torch = pytest.importorskip("torch", reason="programs are exported with the extra `export`")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made("llama")` → (model, artifact with an exact cache)."""
    from programs import nested_program, tiny

    done = {}

    def make(name):
        if name not in done:
            model = tiny(name)
            output = tmp_path_factory.mktemp("program") / f"{name}.tqc"
            done[name] = model, tqc.compile(nested_program(model), output, kv="fp32", max_context=256)
        return done[name]

    return make


def torch_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_the_artifact_computes_what_torch_computes(made, name):
    model, artifact = made(name)
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 256, 47)]
    expected = torch_logits(model, ids)
    assert expected.std() > 0.3
    session = tqc.load(artifact)
    np.testing.assert_allclose(session.prefill(ids[:7])[0], expected[6], atol=1e-4, rtol=0)
    for position in range(7, 47):
        np.testing.assert_allclose(session.decode([ids[position]])[0], expected[position], atol=1e-4, rtol=0)


def test_a_program_is_calibrated_with_the_tokenizer_it_is_given(tmp_path, tiny_llama_onnx):
    """The same weights from a file and from a program give the same key means, up to rounding."""
    from programs import nested_program
    from safetensors.numpy import load_file

    from tqc.models.tiny import tiny_model

    folder = tiny_llama_onnx.parent
    program = tqc.compile(nested_program(tiny_model()), tmp_path / "p.tqc", tokenizer=folder, max_context=256)
    file = tqc.compile(tiny_llama_onnx, tmp_path / "f.tqc", max_context=256)
    means = [
        {name: array for name, array in load_file(path / "params.safetensors").items() if "mean" in name}
        for path in (program, file)
    ]
    assert len(means[0]) == 2
    for name, array in means[0].items():
        np.testing.assert_allclose(array, means[1][name], atol=1e-4)
    assert (program / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_program_without_a_tokenizer_takes_nothing_from_the_working_folder(tmp_path, tiny_llama_onnx, monkeypatch):
    from programs import nested_program

    from tqc.models.tiny import tiny_model

    monkeypatch.chdir(tiny_llama_onnx.parent)
    artifact = tqc.compile(nested_program(tiny_model()), tmp_path / "p.tqc", max_context=256)
    assert not (artifact / "tokenizer.json").exists()
    assert tqc.load(artifact).manifest.centring is None


def test_rejects_what_is_no_model(tmp_path):
    with pytest.raises(PassError, match="Not a model"):
        tqc.compile(torch.nn.Linear(2, 2), tmp_path / "a.tqc")


def test_rejects_a_tokenizer_that_would_be_ignored(tmp_path, tiny_llama_onnx):
    with pytest.raises(PassError, match="tokenizer would be ignored"):
        tqc.compile(tiny_llama_onnx, tmp_path / "a.tqc", tokenizer=tmp_path)
