from __future__ import annotations

import json
import os

import onnx
import pytest

from tqc.errors import ExportError
from tqc.models import export


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory):
    """A Hugging Face folder of a tiny Llama with a tokenizer."""
    pytest.importorskip("torch")
    from transformers import PreTrainedTokenizerFast

    from tqc.models.tiny import byte_tokenizer, tiny_model

    folder = tmp_path_factory.mktemp("llama")
    tiny_model(tied=True).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<end>").save_pretrained(folder)
    return folder


def test_a_folder_is_exported_with_its_tokenizer(llama_folder, tmp_path):
    said = []
    path = export.export_model(llama_folder, tmp_path / "new" / "out", progress=said.append)
    assert path == tmp_path / "new" / "out" / "model.onnx"
    names = {item.name for item in path.parent.iterdir()}
    assert {"model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "generation_config.json"} <= names
    assert [item.name for item in path.parent.parent.iterdir()] == ["out"]
    assert len(said) == 3
    onnx.checker.check_model(str(path), full_check=True)
    assert str(llama_folder) not in (path.parent / "config.json").read_text()
    assert json.loads((path.parent / "config.json").read_text())["model_type"] == "llama"


def test_the_interface(llama_folder, tmp_path):
    graph = onnx.load(str(export.export_model(llama_folder, tmp_path / "out")), load_external_data=False).graph
    shapes = {
        item.name: [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in [*graph.input, *graph.output]
    }
    batch, new, past = "batch_size", "sequence_length", "past_sequence_length"
    assert shapes["input_ids"] == shapes["position_ids"] == [batch, new]
    assert shapes["attention_mask"] == [batch, f"{past} + {new}"]
    assert shapes["logits"] == [batch, new, 272]
    for layer in range(2):
        for side in ("key", "value"):
            assert shapes[f"past_key_values.{layer}.{side}"] == [batch, 2, past, 64]
            assert shapes[f"present.{layer}.{side}"] == [batch, 2, f"{past} + {new}", 64]
    assert len(shapes) == 3 + 4 + 1 + 4


def test_tied_embeddings_are_stored_once(llama_folder, tmp_path):
    path = export.export_model(llama_folder, tmp_path / "out")
    graph = onnx.load(str(path), load_external_data=False).graph
    assert [list(weight.dims) for weight in graph.initializer if 272 in weight.dims] == [[272, 256]]
    weights = 272 * 256 + 2 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 512) + 5 * 256
    assert weights * 4 <= (path.parent / "model.onnx.data").stat().st_size < weights * 4 * 1.02


def test_files_are_as_readable_as_any_other(llama_folder, tmp_path):
    path = export.export_model(llama_folder, tmp_path / "out")
    assert {oct(os.stat(item).st_mode & 0o777) for item in path.parent.iterdir()} == {oct(path.stat().st_mode & 0o777)}


def test_exporting_twice_gives_the_same_bytes(llama_folder, tmp_path):
    first, second = (export.export_model(llama_folder, tmp_path / name).parent for name in "ab")
    for item in first.iterdir():
        assert item.read_bytes() == (second / item.name).read_bytes(), item.name


def test_an_existing_output_is_kept_unless_forced(llama_folder, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine").write_text("keep")
    with pytest.raises(ExportError, match="output exists"):
        export.export_model(llama_folder, output)
    assert (output / "mine").read_text() == "keep"
    (output / "model.onnx").write_text("an earlier export")
    export.export_model(llama_folder, output, force=True)
    assert not (output / "mine").exists()
    assert (output / "model.onnx").stat().st_size > 1000


def test_force_replaces_nothing_but_exports(tmp_path):
    pytest.importorskip("torch")
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("thesis", "file"):
        with pytest.raises(ExportError, match="not an earlier export"):
            export.export_model(source, tmp_path / name, force=True)
    (source / "model.onnx").write_text("an earlier export beside the weights")
    for output in (source, tmp_path):
        with pytest.raises(ExportError, match="holds the source"):
            export.export_model(source, output, force=True)
    assert (source / "config.json").exists()
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "mine"


def test_a_failed_export_leaves_what_was_there(llama_folder, tmp_path, monkeypatch):
    from tqc.models import trace

    def fail(*_):
        raise RuntimeError("Unsupported: aten::novelty\nmore")

    monkeypatch.setattr(trace, "write_onnx", fail)
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(ExportError, match="cannot trace this model") as raised:
        export.export_model(llama_folder, output, force=True)
    assert "aten::novelty" in str(raised.value)
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("source", ["smollm3", "missing/folder", "model.bin"])
def test_reject_an_unknown_source(source, tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ExportError, match="not a model that can be exported"):
        export.export_model(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_reject_a_folder_without_config(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(ExportError, match=r"a folder without config\.json"):
        export.export_model(tmp_path, tmp_path / "out")


def test_reject_an_unreadable_model(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ExportError, match="transformers cannot load this model"):
        export.export_model(tmp_path / "bad.gguf", tmp_path / "out")
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(ExportError, match="transformers cannot load this model"):
        export.export_model(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reject_an_unknown_dtype(tmp_path):
    with pytest.raises(ExportError, match="unknown dtype"):
        export.export_model("smollm2", tmp_path / "out", dtype="int3")


def test_reject_when_the_extra_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(ExportError, match=r"turboquant-compiler\[export\]") as raised:
        export.export_model("smollm2", tmp_path / "out")
    assert "missing: torch" in str(raised.value)


@pytest.mark.slow
def test_smollm2_writes_english(smollm2_onnx):
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    path = smollm2_onnx
    assert 538e6 < (path.parent / "model.onnx.data").stat().st_size < 540e6
    tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    ids = tokenizer.encode("The capital of France is").ids
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    past = {
        item.name: np.zeros((1, 3, 0, 64), np.float32)
        for item in session.get_inputs()
        if item.name.startswith("past_key_values")
    }
    feeds = {"input_ids": [ids], "attention_mask": [[1] * len(ids)], "position_ids": [list(range(len(ids)))]}
    (logits,) = session.run(["logits"], {name: np.array(value, np.int64) for name, value in feeds.items()} | past)
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"
