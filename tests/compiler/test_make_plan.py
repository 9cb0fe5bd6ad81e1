"""Plans of tiny models: within the budget, better than the same bits everywhere, with and without a text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tqc.artifact import read_manifest
from tqc.compiler import CompileOptions, compile_model
from tqc.compiler.make_plan import make_plan
from tqc.compiler.plan import bits_per_value, check_plan
from tqc.errors import PassError
from tqc.frontend import import_model

OPTIONS = {"sinks": 2, "recent": 32, "page": 32, "max_context": 512}


def plan_of(path: Path, budget: float):
    imported = import_model(path)
    options = CompileOptions(path, Path("unused"), budget=budget, **OPTIONS)
    plan, means = make_plan(options, imported, budget, 512)
    check_plan(plan, {layer.layer: layer for layer in imported.layers})
    return plan, means


def test_measured_over_the_text(tiny_llama_onnx) -> None:
    plan, means = plan_of(tiny_llama_onnx, 3.5)
    assert plan.made_from.startswith(f"{means.tokens} tokens of a text")
    assert plan.made_from.endswith("layers weighed by what they change in the predictions")
    assert 3.0 < plan.bits_per_value <= 3.5
    assert all("nats" in layer.why for layer in plan.layers)
    richer, _ = plan_of(tiny_llama_onnx, 6.0)
    assert plan.bits_per_value < richer.bits_per_value <= 6.0


def test_the_layer_that_changes_the_predictions_gets_the_bits(tiny_llama_onnx, monkeypatch) -> None:
    shape = import_model(tiny_llama_onnx).layers[0]

    def only(loud: int):
        def found(model, interface, *_, **__):
            return {(n, side): 1.0 if n == loud else 1e-9 for n in range(len(interface.layers)) for side in "kv"}

        monkeypatch.setattr("tqc.compiler.make_plan.sensitivities", found)
        plan, _ = plan_of(tiny_llama_onnx, 3.5)
        return [bits_per_value({0: (x.k, x.v)}, {0: shape}) for x in plan.layers]

    for loud in (0, 1):
        bits = only(loud)
        assert max(bits) == bits[loud] > min(bits)


def test_layers_count_alike_where_nothing_was_measured(tiny_llama_onnx, monkeypatch) -> None:
    monkeypatch.setattr("tqc.compiler.sensitivity.LARGEST", 1000)
    plan, means = plan_of(tiny_llama_onnx, 3.5)
    assert plan.made_from == f"{means.tokens} tokens of a text, sha256 {means.sha256[:16]}"
    assert all("noise" in layer.why for layer in plan.layers)


def test_predicted_from_the_weights(tiny_llama_onnx, tmp_path) -> None:
    shutil.copytree(tiny_llama_onnx.parent, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    plan, means = plan_of(tmp_path / "model" / tiny_llama_onnx.name, 3.5)
    assert (plan.made_from, means) == ("weights", None)
    assert plan.bits_per_value <= 3.5
    assert all(name.startswith("tq") for layer in plan.layers for name in (layer.k, layer.v))


def test_a_budget_that_nothing_meets(tiny_llama_onnx) -> None:
    with pytest.raises(PassError, match="budget is too small"):
        plan_of(tiny_llama_onnx, 1.5)


def test_a_plan_is_compiled_as_it_is_read(tiny_llama_onnx, tmp_path) -> None:
    seen = []
    made = compile_model(
        CompileOptions(tiny_llama_onnx, tmp_path / "a.tqc", budget=3.25, chosen=seen.append, **OPTIONS)
    )
    (tmp_path / "plan.json").write_text(seen[0].plan.text(), encoding="utf-8")
    read = compile_model(CompileOptions(tiny_llama_onnx, tmp_path / "b.tqc", plan=tmp_path / "plan.json", **OPTIONS))
    first, second = (read_manifest(path) for path in (made, read))
    assert [(x.k, x.v) for x in first.layers] == [(x.k, x.v) for x in seen[0].plan.layers]
    assert first.layers == second.layers
    assert first.files["params.safetensors"] == second.files["params.safetensors"]
