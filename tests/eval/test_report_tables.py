from __future__ import annotations

import pytest
from report_data import layer, manifest, results

from tqc.eval.report_tables import context_rows, fit_rows, layer_rows, moment, origins, size, strip, summary
from tqc.eval.subjects import Subject


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_240, "12.2 kB"), (999_700, "1000 kB"), (1.57e9, "1.57 GB")],
)
def test_sizes(count, text):
    assert size(count) == text


def rows(subjects):
    return {what: cells for _, group in summary(subjects) for what, cells in group}


def test_the_summary_has_a_column_for_each_artifact():
    small = manifest([layer("tq2", "tq2", 2, 2)] * 4)
    found = rows([Subject("a", manifest(), results(manifest())), Subject("b", small)])
    assert found["scheme"] == ["tq4", "tq2"]
    assert found["coded token"] == ["816 B", "432 B"]
    assert found["compression"] == ["3.76×", "7.11×"]
    assert found["same next token"] == ["98.05 %", "–"]
    assert found["change of perplexity"] == ["+0.25 %", "–"]
    assert found["retrieved"] == ["9 of 16", "–"]
    assert "KL (nat per token)" not in rows([Subject("b", small)])


def test_an_interrupted_evaluation_says_so():
    whole = results(manifest())
    half = whole.model_copy(update={"fidelity": whole.fidelity.model_copy(update={"tokens": 100})})
    assert rows([Subject("a", manifest(), half)])["predictions"] == ["100 in windows of 8,192, stopped before 20,480"]


def test_strips_count_the_layers_of_each_scheme():
    found = strip(Subject("a", manifest([layer("tq3", "tq2", 3, 2), layer()])))
    (k, keys), (v, values) = found["rows"]
    assert (k, [cell["scheme"] for cell in keys]) == ("K", ["tq3", "tq4"])
    assert (v, [cell["bits"] for cell in values]) == ("V", ["2.25", "4.25"])
    assert [(e["scheme"], e["k"], e["v"]) for e in found["legend"]] == [("tq2", 0, 1), ("tq3", 1, 0), ("tq4", 1, 1)]


def test_layers_contexts_and_gpus():
    subject = Subject("a", manifest())
    assert layer_rows(subject)[0][:6] == ["0–3", "9:3", "64", "tq4", "4.25", "102"]
    assert context_rows([subject])[0][:2] == ["4,096 tokens", "12.6 MB"]
    name, fp16, tokens = fit_rows([subject])[0]
    assert name == "RTX 4090 24 GB"
    assert int(fp16.replace(",", "")) == (24 * 10**9 - 268_000_000) // 3072
    assert int(tokens.replace(",", "")) > 3.7 * int(fp16.replace(",", ""))


def test_origins_say_date_hardware_and_command():
    compiled, evaluated = origins([Subject("a", manifest(), results(manifest()))], [])
    assert compiled == ["a", "–", "x86-64-v3", "tqc compile model.onnx --kv tq4"]
    assert evaluated[:3] == ["evaluation of a", "2026-01-02 04:05 UTC", "Made-up CPU, 2 cores, on cpu"]


def test_times():
    assert moment("2026-11-24T04:38:09+00:00") == "2026-11-24 04:38 UTC"
    assert moment("2026-11-24T04:38:09+02:00") == "2026-11-24 02:38 UTC"
    assert moment("yesterday") == "yesterday"
