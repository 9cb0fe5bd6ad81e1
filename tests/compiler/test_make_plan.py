"""Plans of tiny models: within the budget, better than the same bits everywhere, with and without a text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tqc.artifact import read_manifest
from tqc.compiler import CompileOptions, compile_model
from tqc.compiler.candidates import TRUST, candidates
from tqc.compiler.make_plan import make_plan
from tqc.compiler.plan import bits_per_value, check_plan
from tqc.compiler.trial import Trial
from tqc.errors import PassError
from tqc.frontend import import_model

OPTIONS = {"sinks": 2, "recent": 32, "page": 32, "max_context": 512}


@pytest.fixture(autouse=True)
def short_texts(monkeypatch) -> None:
    """Of which a tiny model's tokenizer makes many tokens."""
    monkeypatch.setattr("tqc.compiler.calibrate.MAX_MOMENT_TOKENS", 320)
    monkeypatch.setattr("tqc.compiler.trial.TOKENS", 320)


def plan_of(path: Path, budget: float, length: int = 512):
    imported = import_model(path)
    options = CompileOptions(path, Path("unused"), budget=budget, **OPTIONS)
    plan, means = make_plan(options, imported, budget, length)
    check_plan(plan, {layer.layer: layer for layer in imported.layers})
    return plan, means


def test_measured_over_the_text(tiny_llama_onnx) -> None:
    plan, means = plan_of(tiny_llama_onnx, 3.5)
    assert plan.made_from.startswith(f"{means.tokens} tokens of a text")
    assert "in a trial over" in plan.made_from
    assert 3.0 < plan.bits_per_value <= 3.5
    assert all("nats" in layer.why for layer in plan.layers)
    richer, _ = plan_of(tiny_llama_onnx, 6.0)
    assert plan.bits_per_value < richer.bits_per_value <= 6.0


def test_the_layer_that_changes_the_predictions_gets_the_bits(tiny_llama_onnx, monkeypatch) -> None:
    shape = import_model(tiny_llama_onnx).layers[0]

    def only(loud: int):
        def found(trial, _probe):
            return {place: 1.0 if place[0] == loud else 1e-9 for place in trial.places}

        monkeypatch.setattr("tqc.compiler.make_plan.sensitivities", found)
        monkeypatch.setattr("tqc.compiler.candidates.TRUST", (1.0,))
        monkeypatch.setattr("tqc.compiler.candidates.UNIFORM", 0)
        plan, _ = plan_of(tiny_llama_onnx, 3.5)
        return [bits_per_value({0: (x.k, x.v)}, {0: shape}) for x in plan.layers]

    for loud in (0, 1):
        bits = only(loud)
        assert max(bits) == bits[loud] > min(bits)


@pytest.mark.parametrize("budget", [2.5, 3.5, 4.25])
def test_the_plan_is_the_best_of_what_was_tried(tiny_llama_onnx, monkeypatch, budget) -> None:
    tried = {}

    def divergence(trial, schemes):
        found = measured(trial, schemes)
        if set(schemes) == set(trial.places):
            tried[tuple(sorted(schemes.items()))] = found
        return found

    measured = Trial.divergence
    monkeypatch.setattr(Trial, "divergence", divergence)
    plan, _ = plan_of(tiny_llama_onnx, budget)
    layers = {layer.layer: layer for layer in import_model(tiny_llama_onnx).layers}
    chosen = tuple(sorted(((x.layer, side), name) for x in plan.layers for side, name in (("k", x.k), ("v", x.v))))
    assert tried[chosen] == min(tried.values())
    assert f"{tried[chosen]:.2g} nats, the least of {len(tried)}" in plan.made_from
    uniform = [x for x in tried if len({(side, name) for (_, side), name in x}) == 2]
    assert uniform, "none of what was tried is the same in all layers"
    for assignment in tried:
        of = dict(assignment)
        assert bits_per_value({n: (of[n, "k"], of[n, "v"]) for n in layers}, layers) <= budget


@pytest.mark.parametrize("winner", [1, -1])
def test_what_the_trial_says_counts_and_not_the_sum_of_costs(tiny_llama_onnx, monkeypatch, winner) -> None:
    seen = []

    def made(*arguments):
        seen.append(candidates(*arguments))
        return seen[-1]

    def divergence(trial, schemes):
        if len(schemes) == 1:
            return 1.0
        return 0.5 if schemes == list(seen[-1].values())[winner] else 0.75

    monkeypatch.setattr("tqc.compiler.make_plan.candidates", made)
    monkeypatch.setattr(Trial, "divergence", divergence)
    plan, _ = plan_of(tiny_llama_onnx, 3.5)
    label, assignment = list(seen[0].items())[winner]
    assert {(x.layer, "k"): x.k for x in plan.layers} | {(x.layer, "v"): x.v for x in plan.layers} == assignment
    assert label in plan.made_from


def test_the_trial_is_no_longer_than_the_model_reads(tiny_llama_onnx) -> None:
    for length, predictions in ((512, 80), (200, 50)):
        plan, _ = plan_of(tiny_llama_onnx, 3.5, length)
        assert plan.made_from.endswith(f"over {predictions} predictions")


def test_the_first_of_equals(tiny_llama_onnx, monkeypatch) -> None:
    monkeypatch.setattr(Trial, "divergence", lambda *_: 1.0)
    plan, _ = plan_of(tiny_llama_onnx, 3.5)
    assert f"to the power {TRUST[0]:g}: 1 nats" in plan.made_from


def test_layers_count_alike_where_nothing_was_measured(tiny_llama_onnx, monkeypatch) -> None:
    monkeypatch.setattr("tqc.compiler.trial.LARGEST", 1000)
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
