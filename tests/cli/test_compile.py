from __future__ import annotations

import shutil
import sys
from dataclasses import fields
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def compiler(monkeypatch, artifact, tmp_path):
    """Stands in for `tqc.compiler`: remembers the options, reports progress and gives a copy of the sum model."""
    from tqc.compiler.options import CompileOptions

    seen = SimpleNamespace(options=None, protected={})

    def compile_model(options):
        seen.options = options
        options.progress("half way", 0.5)
        options.chosen(SimpleNamespace(protected=seen.protected))
        # The command puts a report into it.
        return shutil.copytree(artifact, tmp_path / "compiled" / artifact.name, dirs_exist_ok=True)

    module = ModuleType("tqc.compiler")
    module.CompileOptions, module.compile_model = CompileOptions, compile_model
    monkeypatch.setitem(sys.modules, "tqc.compiler", module)
    return seen


def test_options_reach_the_compiler(tqc, compiler, tmp_path):
    words = "--target cuda --arch sm_80,sm_90 --kv k4v3 --sinks 0 --recent 0 --page 32 --max-context 100 --no-centre"
    words += " --no-fold --force --no-protect --tune-logs logs"
    done = tqc("compile", "model.onnx", "-o", tmp_path / "m.tqc", *words.split())
    assert done.status == 0, done.err
    seen = {field.name: getattr(compiler.options, field.name) for field in fields(compiler.options)}
    del seen["progress"], seen["explain"], seen["tokenizer"], seen["chosen"]
    assert {name: str(value) for name, value in seen.items()} == {
        "model": "model.onnx",
        "output": str(tmp_path / "m.tqc"),
        **{"target": "cuda", "arch": "sm_80,sm_90", "kv": "k4v3", "sinks": "0", "recent": "0", "page": "32"},
        **{"max_context": "100", "calibrate": "None", "centre": "False", "fold": "False", "dump_dir": "None"},
        **{"force": "True", "plan": "None", "budget": "None", "rounds": "1", "protect": "False"},
        "tune_logs": "logs",
    }


def test_schemes_by_layer_reach_the_compiler(tqc, compiler, tmp_path):
    tqc("compile", "model.onnx", "-o", tmp_path / "m.tqc", "--plan", "plan.json", "--rounds", "2")
    assert (str(compiler.options.plan), compiler.options.rounds) == ("plan.json", 2)
    tqc("compile", "model.onnx", "-o", tmp_path / "m.tqc", "--budget", "3.5")
    assert compiler.options.budget == 3.5
    done = tqc("compile", "model.onnx", "-o", tmp_path / "m.tqc", "--budget", "3.5", "--kv", "tq3")
    assert done.status == 1
    assert "given twice" in done.err


def test_defaults_are_those_of_the_compiler(tqc, compiler):
    tqc("compile", "model.onnx", "-o", "m.tqc")
    default = type(compiler.options)(model=compiler.options.model, output=compiler.options.output)
    for field in fields(default):
        if field.name not in ("progress", "chosen"):
            assert getattr(compiler.options, field.name) == getattr(default, field.name), field.name


def test_summary(tqc, compiler):
    done = tqc("compile", "model.onnx", "-o", "m.tqc")
    assert "3.20× smaller than fp16" in done.out
    assert tqc("compile", "model.onnx", "-o", "m.tqc", "--json").json["totals"]["bytes_per_token"] == 20


def test_says_when_keys_could_not_be_centred(tqc, compiler):
    """The sum model has coded keys and no means: as if there had been no tokenizer beside it."""
    assert "Keys are not centred" in tqc("compile", "model.onnx", "-o", "m.tqc").err
    assert "Keys are not centred" not in tqc("compile", "model.onnx", "-o", "m.tqc", "--no-centre").err


def test_says_which_keys_got_eight_bits(tqc, compiler):
    compiler.protected = {27: 31.4, 0: 12.6}
    done = tqc("compile", "model.onnx", "-o", "m.tqc")
    lines = [line for line in done.err.splitlines() if line.startswith("Layer")]
    assert lines == [
        "Layer 0: 8-bit keys, since their bias is 13 times as long as the rest of them.",
        "Layer 27: 8-bit keys, since their bias is 31 times as long as the rest of them.",
    ]
    assert "Layer" not in done.out
    compiler.protected = {}
    assert "8-bit keys" not in tqc("compile", "model.onnx", "-o", "m.tqc").err
