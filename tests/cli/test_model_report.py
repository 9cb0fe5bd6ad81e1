"""`tqc inspect MODEL.onnx` and `tqc compile --explain`."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest


@pytest.fixture
def refused(tiny_llama_onnx, tmp_path):
    """A model whose second layer normalises the wrong axis."""
    folder = tmp_path / "refused"
    shutil.copytree(tiny_llama_onnx.parent, folder)
    proto = onnx.load(folder / "model.onnx", load_external_data=False)
    softmaxes = [node for node in proto.graph.node if node.op_type == "Softmax"]
    softmaxes[1].attribute[0].i = 2
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_table_of_what_was_recognised(tqc, tiny_mistral_onnx, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    done = tqc("inspect", tiny_mistral_onnx)
    assert done.status == 0
    for text in ("4:2", "0.125", "causal, window 16", "theta 10000, 64 dims", "past_key_values.1.value", "0–1"):
        assert text in done.out
    assert done.out.count("present.0.key") == 1


def test_names_are_whole_however_narrow_the_terminal(tqc, tiny_mistral_onnx, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    done = tqc("inspect", tiny_mistral_onnx)
    assert "…" not in done.out[done.out.index("In the graph") :]


def test_json(tqc, tiny_mistral_onnx):
    found = tqc("inspect", tiny_mistral_onnx, "--json").json
    assert found["accepted"]
    assert [layer["window"] for layer in found["layers"]] == [16, 16]


def test_a_refused_model(tqc, refused):
    done = tqc("inspect", refused)
    assert done.status == 1
    assert "1 of 2 layers understood" in done.out
    assert "Not understood: layer 1" in done.out
    assert "normalises axis 2" in done.out
    assert "Attention that is not understood" in done.err
    found = json.loads(tqc("inspect", refused, "--json").out)
    assert (found["accepted"], len(found["layers"]), found["missing"]) == (False, 1, [1])


def test_explain_a_refused_model(tqc, refused, tmp_path):
    done = tqc("compile", refused, "-o", tmp_path / "out.tqc", "--explain")
    assert done.status == 1
    assert "Not understood: layer 1" in done.out
    assert "Attention that is not understood" in done.err
    assert not (tmp_path / "out.tqc").exists()
    assert tqc("compile", refused, "-o", tmp_path / "out.tqc", "--explain", "--json").json["model"]["missing"] == [1]


def test_explain_comes_before_the_summary(tqc, tiny_llama_onnx, tmp_path):
    done = tqc("compile", tiny_llama_onnx, "-o", tmp_path / "out.tqc", "--explain", "--kv", "fp32")
    assert done.status == 0, done.err
    assert done.out.index("Layers") < done.out.index("KV cache:")


def test_neither_a_model_nor_an_artifact(tqc, tmp_path):
    assert tqc("inspect", tmp_path / "nothing").status == 1
