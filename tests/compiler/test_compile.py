"""What travels from a model's folder into its artifact."""

from __future__ import annotations

import json
import shutil

import pytest

from tqc.artifact import verify
from tqc.artifact.companions import companions
from tqc.compiler import CompileOptions, compile_model
from tqc.errors import FrontendError
from tqc.runtime.tokenizer import TextTokenizer


@pytest.fixture
def repository(tmp_path, tiny_llama_onnx):
    """A folder as transformers.js has it: files in it, the model in `onnx`."""
    shutil.copytree(tiny_llama_onnx.parent, tmp_path / "onnx")
    for name in companions(tiny_llama_onnx):
        (tmp_path / "onnx" / name).rename(tmp_path / name)
    return tmp_path


def _compile(repository):
    return compile_model(CompileOptions(repository / "onnx" / "model.onnx", repository / "out.tqc", kv="k:tq4,v:fp32"))


def test_settings_travel(repository):
    model = {"eos_token_id": [7, 9], "context_length": 77, "vocab_size": 272}
    (repository / "genai_config.json").write_text(json.dumps({"model": model}))
    (repository / "chat_template.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}!"}))
    out = _compile(repository)
    manifest = verify(out)
    assert manifest.max_context == 77
    assert manifest.centring.tokens > 0
    tokenizer = TextTokenizer(out, manifest)
    assert tokenizer.stop_ids == {7, 9}
    assert tokenizer.chat("hi") == tokenizer.encode("hi!")
    assert {"tokenizer.json", "config.json", "genai_config.json", "chat_template.json"} <= set(companions(out / "x"))


def test_settings_of_another_model(repository):
    config = json.loads((repository / "config.json").read_text())
    (repository / "config.json").write_text(json.dumps({**config, "vocab_size": 32000}))
    with pytest.raises(FrontendError, match=r"config\.json: vocab_size"):
        _compile(repository)
    assert not (repository / "out.tqc").exists()
