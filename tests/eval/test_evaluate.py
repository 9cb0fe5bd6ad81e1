from __future__ import annotations

import shutil

import pytest

from tqc.artifact import read_manifest
from tqc.errors import TqcError
from tqc.eval import evaluate as evaluation
from tqc.eval.evaluate import evaluate
from tqc.eval.results import SECTIONS, read_results
from tqc.eval.settings import Settings

SMALL = Settings(tokens=600, chunk=64, lengths=(440,), depths=(0.0, 1.0), tasks=("needle", "multi-value"))
ONE = Settings(sections=("fidelity",), tokens=150, chunk=50)


@pytest.fixture(scope="module")
def artifact(tiny_llama_onnx, compiled):
    return compiled(tiny_llama_onnx, kv="k4v3", max_context=512)


@pytest.fixture(scope="module")
def exact(tiny_llama_onnx, compiled):
    return compiled(tiny_llama_onnx, kv="fp32", max_context=512)


@pytest.fixture(scope="module")
def everything(artifact, exact, tmp_path_factory):
    """All sections of one run, and the file it left."""
    path = tmp_path_factory.mktemp("results") / "r.json"
    return evaluate(artifact, SMALL, reference=exact, output=path), path


def test_every_section_is_there_and_in_the_file(everything):
    results, path = everything
    assert read_results(path) == results
    assert set(results.finished) == set(results.settings) == set(SECTIONS)
    assert results.artifact.schemes == "k:tq4,v:tq3"
    assert results.reference.schemes == "fp32"
    assert len(results.layers) == 2
    assert results.layers[0].d_k == pytest.approx(results.layers[0].theory_k, rel=0.1)
    assert results.layers[0].logit_sd == pytest.approx(results.layers[0].logit_law, rel=0.1)
    fidelity = results.fidelity
    assert [part.tokens for part in fidelity.windows] == [512, 88]
    assert fidelity.tokens == fidelity.wanted == 600
    assert 0 < fidelity.kl < 0.05
    assert 0.8 < fidelity.agreement < 1
    assert [(cell.task, cell.length, cell.depth, cell.total) for cell in results.retrieval] == [
        (task, 440, depth, 1) for task in SMALL.tasks for depth in SMALL.depths
    ]
    assert all(cell.reference_correct is not None for cell in results.retrieval)
    assert results.bytes.per_token == 240


def test_a_finished_run_is_not_measured_again(everything, artifact, exact, monkeypatch):
    results, path = everything
    for name in ("measure_layers", "measure_window", "score"):
        monkeypatch.setattr(evaluation, name, None)
    assert evaluate(artifact, SMALL, reference=exact, output=path) == results


def test_interrupted_retrieval_goes_on(artifact, tmp_path, monkeypatch):
    settings = Settings(sections=("retrieval",), lengths=(300,), depths=(0.0, 0.5, 1.0), tasks=("needle",))
    path, score, calls = tmp_path / "r.json", evaluation.score, []

    def interrupted(session, tasks):
        calls.append(tasks[0].depth)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(session, tasks)

    monkeypatch.setattr(evaluation, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(artifact, settings, output=path)
    assert [cell.depth for cell in read_results(path).retrieval] == [0.0]
    results = evaluate(artifact, settings, output=path)
    assert calls == [0.0, 0.5, 0.5, 1.0]
    assert [cell.depth for cell in results.retrieval] == [0.0, 0.5, 1.0]
    assert results.retrieval[0].reference_correct is None


def test_distortion_and_logits_can_come_one_after_the_other(artifact, tmp_path):
    path = tmp_path / "r.json"
    first = evaluate(artifact, Settings(sections=("distortion",), tokens=200), output=path).layers
    both = evaluate(artifact, Settings(sections=("logits",), tokens=200), output=path).layers
    assert [(layer.d_k, layer.logit_sd is None) for layer in first] == [(layer.d_k, True) for layer in both]
    assert all(layer.logit_sd for layer in both)


def test_the_onnx_file_is_a_reference(exact, tiny_llama_onnx):
    results = evaluate(exact, ONE, reference=tiny_llama_onnx)
    assert results.fidelity.agreement == 1.0
    assert results.fidelity.max_difference < 1e-3
    assert results.reference.kind == "onnx"
    assert results.reference.digest == read_manifest(exact).source.sha256


def test_without_a_reference_there_is_perplexity(artifact):
    fidelity = evaluate(artifact, ONE).fidelity
    assert fidelity.perplexity > 1
    assert fidelity.kl is fidelity.agreement is None


def test_a_text_of_one_s_own(artifact, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("every tenth word is a word " * 20)
    text = evaluate(artifact, ONE, text=path).text
    assert (text.name, text.tokens) == ("mine.txt", 540)


def test_progress_goes_up_to_one(artifact):
    seen = []
    evaluate(artifact, ONE, progress=lambda step, fraction: seen.append((step, fraction)))
    assert seen[0] == ("loading", 0.0)
    assert seen[1:] == [("perplexity", part / 3) for part in (1, 2, 3)]


def test_default_prompts_are_those_that_hold_the_needles(artifact, monkeypatch):
    monkeypatch.setattr(evaluation, "score", lambda session, tasks: 0)
    results = evaluate(artifact, Settings(sections=("retrieval",)))
    assert results.settings["retrieval"]["lengths"] == [448]  # 112 and 224 bytes do not hold four needles


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(sections=("distortion",), tokens=195), "at least 196 tokens"),
        (Settings(sections=("retrieval",), lengths=(449,)), "1 to 448 tokens"),
        (Settings(sections=("retrieval",), lengths=(100,)), "cannot be made"),
        (Settings(sections=("bytes",), contexts=(600,)), "1 to 512 tokens"),
        (Settings(sections=("fidelity",), tokens=10**7), "too short"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_written(artifact, tmp_path, settings, message):
    with pytest.raises(TqcError, match=message):
        evaluate(artifact, settings, output=tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_another_model_is_no_reference(artifact, tmp_path, fake, sum_library):
    other = fake.write_fake(tmp_path / "sum.tqc", sum_library)
    with pytest.raises(TqcError, match="another model"):
        evaluate(artifact, ONE, reference=other)


def test_a_file_that_is_no_onnx_is_no_reference(artifact, tmp_path, tiny_llama_onnx):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(TqcError):
        evaluate(artifact, ONE, reference=path)


def test_a_damaged_artifact_is_refused(artifact, tmp_path):
    damaged = shutil.copytree(artifact, tmp_path / "damaged.tqc")
    (damaged / "manifest.json").write_text("{}")
    with pytest.raises(TqcError, match="manifest"):
        evaluate(damaged, ONE)


@pytest.mark.parametrize(
    "value", [{"sections": ()}, {"tokens": 0}, {"depths": (1.5,)}, {"tasks": ("pin",)}, {"seed": -1}]
)
def test_settings_out_of_range(value):
    with pytest.raises(TqcError, match="out of range"):
        Settings(**value)
