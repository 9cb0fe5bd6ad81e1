"""`tqc plan` on a tiny model."""

from __future__ import annotations

import json


def test_a_plan_is_written_and_compiles(tqc, tiny_llama_onnx, tmp_path):
    path = tmp_path / "plan.json"
    words = ("plan", tiny_llama_onnx, "--budget", "3.5", "--sinks", "2", "--recent", "32", "--page", "32")
    done = tqc(*words, "-o", path)
    assert done.status == 0, done.err
    assert "bits a number" in done.out
    plan = json.loads(path.read_text())
    assert plan["budget"] == 3.5
    assert plan["bits_per_value"] <= 3.5
    assert [layer["layer"] for layer in plan["layers"]] == [0, 1]
    before = path.read_bytes()
    again = tqc(*words, "-o", path)
    assert again.status == 1
    assert "exists" in again.err
    assert path.read_bytes() == before
    assert tqc(*words, "--json").json == plan
    assert json.loads(tqc(*words).out) == plan


def test_a_budget_out_of_range_writes_nothing(tqc, tiny_llama_onnx, tmp_path):
    for budget, what in (("0.2", "--budget"), ("1.2", "too small")):
        done = tqc("plan", tiny_llama_onnx, "--budget", budget, "--recent", "32", "-o", tmp_path / "plan.json")
        assert done.status == 1
        assert what in done.err
    assert not list(tmp_path.iterdir())
