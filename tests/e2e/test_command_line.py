"""`tqc` from model to text, and what it says when something is wrong: a message, status 1, and nothing left behind."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from references import random_ids

from tqc.cli.main import main

TQC = Path(sys.executable).with_name("tqc")


@pytest.fixture
def tqc_command(monkeypatch, capsys):
    """`tqc_command("verify", path)` → (status, stdout, stderr), in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tqc", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as done:
            status = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def rejected(tqc_command, tmp_path):
    """`rejected(*words, compile=model, …)`: `tqc compile` must refuse, say all `words` and write nothing."""

    def check(model: Path, *words: str, options: tuple[object, ...] = ()) -> None:
        output = tmp_path / "rejected" / "out.tqc"
        output.parent.mkdir()
        status, out, err = tqc_command("compile", model, "-o", output, *options)
        assert status == 1, out + err
        for word in words:
            assert word in err
        assert "Traceback" not in out + err
        assert list(output.parent.iterdir()) == []

    return check


def edited(model: Path, folder: Path, change) -> Path:
    """A copy of an exported model whose graph `change(graph)` has altered; the weights' file is the same."""
    copy = shutil.copytree(model.parent, folder) / model.name
    proto = onnx.load(str(copy), load_external_data=False)
    change(proto.graph)
    onnx.save(proto, str(copy))
    return copy


def test_from_model_to_text(tiny_llama_onnx, tqc_command, tmp_path):
    paths = [tmp_path / f"{kv}.tqc" for kv in ("tq4", "fp32")]
    for path in paths:
        status, out, err = tqc_command("compile", tiny_llama_onnx, "-o", path, "--kv", path.stem, "--max-context", 512)
        assert (status, path.is_dir()) == (0, True), out + err
        assert tqc_command("verify", path)[0] == 0
    status, out, err = tqc_command("inspect", paths[0], "--json")
    assert status == 0, err
    assert json.loads(out)
    status, out, err = tqc_command("generate", paths[0], "--prompt", "hello", "--compare", paths[1])
    assert status == 0, out + err
    assert "tokens/s" in out + err


def test_the_installed_command_gives_the_same_artifact_twice(tiny_llama_onnx, tmp_path):
    made = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        command = [TQC, "compile", tiny_llama_onnx, "-o", "out.tqc", "--max-context", "512"]
        done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        made.append({item.name: item.read_bytes() for item in sorted((folder / "out.tqc").iterdir())})
    assert list(made[0]) == list(made[1])
    assert {"manifest.json", "params.safetensors", "tokenizer.json"} <= set(made[0])
    for name, content in made[0].items():
        assert content == made[1][name], name


def test_reject_a_missing_model(rejected, tmp_path):
    rejected(tmp_path / "no.onnx", "no.onnx")


def test_reject_what_is_not_onnx(rejected, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"#!/bin/sh\necho not a model\n" * 50)
    rejected(tmp_path / "model.onnx", "TQC-FRONTEND", "ONNX")


def test_reject_a_truncated_model(rejected, tiny_llama_onnx, tmp_path):
    copy = shutil.copytree(tiny_llama_onnx.parent, tmp_path / "model") / "model.onnx"
    copy.write_bytes(copy.read_bytes()[:-2000])
    rejected(copy, "TQC-FRONTEND")


def test_reject_missing_external_data(rejected, tiny_llama_onnx, tmp_path):
    copy = shutil.copytree(tiny_llama_onnx.parent, tmp_path / "model") / "model.onnx"
    (copy.parent / "model.onnx.data").unlink()
    rejected(copy, "TQC-FRONTEND", "model.onnx.data")


def test_reject_truncated_external_data(rejected, tiny_llama_onnx, tmp_path):
    copy = shutil.copytree(tiny_llama_onnx.parent, tmp_path / "model") / "model.onnx"
    os.truncate(copy.parent / "model.onnx.data", 100_000)
    rejected(copy, "TQC-FRONTEND")


@pytest.mark.parametrize("place", ["../outside.data", "absolute", "link"])
def test_reject_external_data_outside_the_folder(rejected, tiny_llama_onnx, tmp_path, place):
    outside = tmp_path / "outside.data"
    shutil.copy(tiny_llama_onnx.with_name("model.onnx.data"), outside)
    location = {"../outside.data": place, "absolute": str(outside), "link": "link.data"}[place]

    def move(graph):
        for weight in graph.initializer:
            for entry in weight.external_data:
                if entry.key == "location":
                    entry.value = location

    model = edited(tiny_llama_onnx, tmp_path / "model", move)
    (model.parent / "link.data").symlink_to(outside)
    rejected(model, "TQC-FRONTEND")


def test_reject_a_model_without_a_cache(rejected, tmp_path):
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("batch", "sequence"))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", "sequence", 8))
    table = numpy_helper.from_array(np.ones((8, 8), np.float32), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])], "g", [ids], [logits], [table]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    rejected(tmp_path / "m.onnx", "TQC-FRONTEND", "cache")


def test_reject_a_model_without_attention(rejected, tiny_llama_onnx, tmp_path):
    def no_softmax(graph):
        for node in graph.node:
            if node.op_type == "Softmax":
                node.op_type = "Sigmoid"
                del node.attribute[:]

    rejected(edited(tiny_llama_onnx, tmp_path / "model", no_softmax), "TQC-FRONTEND", "attention")


def test_reject_an_unknown_mask(rejected, tiny_llama_onnx, tmp_path):
    def look_forward(graph):
        (node,) = (node for node in graph.node if node.op_type == "LessOrEqual")
        node.op_type = "GreaterOrEqual"

    rejected(edited(tiny_llama_onnx, tmp_path / "model", look_forward), "TQC-FRONTEND", "mask")


def test_reject_unsupported_operators_naming_all(rejected, tiny_llama_onnx, tmp_path):
    def replace(graph):
        first, second = (node for node in graph.node if node.op_type == "Sigmoid")
        first.op_type, second.op_type = "HardSwish", "Det"

    rejected(edited(tiny_llama_onnx, tmp_path / "model", replace), "TQC-FRONTEND", "HardSwish", "Det")


def test_reject_an_odd_head_dim(rejected, tiny_onnx):
    rejected(tiny_onnx(arch="llama", head_dim=24), "24", "16")


def test_reject_an_unknown_scheme(rejected, tiny_llama_onnx):
    rejected(tiny_llama_onnx, "TQC-CODEC", "tq4", options=("--kv", "qt4"))


def test_reject_an_unknown_target(rejected, tiny_llama_onnx):
    rejected(tiny_llama_onnx, "TQC-TARGET", options=("--target", "abacus"))


def test_an_existing_output_is_kept_unless_forced(tiny_llama_onnx, tqc_command, tmp_path):
    output = tmp_path / "out.tqc"
    output.mkdir()
    (output / "mine").write_text("keep")
    status, _, err = tqc_command("compile", tiny_llama_onnx, "-o", output)
    assert status == 1
    assert "--force" in err
    assert [item.name for item in output.iterdir()] == ["mine"]


def test_a_full_disk_leaves_nothing_behind(tiny_llama_onnx, tmp_path):
    """No file may grow past 1 MB, as on a disk that fills up while the weights are written."""
    before = set(tmp_path.iterdir())
    command = [TQC, "compile", tiny_llama_onnx, "-o", tmp_path / "out.tqc", "--max-context", "512"]
    limit = (1_000_000, 1_000_000)
    done = subprocess.run(
        command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "TQC-" in done.stderr
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["manifest.json", "params.safetensors", "tokenizer.json", "library"])
@pytest.mark.parametrize("damage", ["changed", "shortened", "removed"])
def test_a_damaged_artifact_is_refused(tiny_llama_onnx, compiled, tqc_command, tmp_path, name, damage):
    artifact = shutil.copytree(compiled(tiny_llama_onnx, kv="tq4", max_context=1024), tmp_path / "copy.tqc")
    file = next(artifact.glob("*.so")) if name == "library" else artifact / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x41
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content if damage == "changed" else content[: len(content) // 2])
    for verb in (("verify", artifact), ("generate", artifact, "--prompt", "hello")):
        status, out, err = tqc_command(*verb)
        assert status == 1, (verb, out, err)
        assert "TQC-ARTIFACT" in out + err
        assert "Traceback" not in out + err


def test_a_prompt_past_the_context_is_refused(tiny_llama_onnx, compiled, tqc_command):
    artifact = compiled(tiny_llama_onnx, kv="tq4", max_context=1024)
    prompt = bytes(97 + token % 26 for token in random_ids(1100)).decode()
    status, out, err = tqc_command("generate", artifact, "--prompt", prompt)
    assert status == 1
    assert "TQC-SESSION" in out + err
