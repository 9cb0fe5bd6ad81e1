from __future__ import annotations

import json

import pytest

from tqc.eval import evaluate as evaluation
from tqc.eval.results import Results, read_results

WORDS = " ".join(f"w{number * 7 % 30}" for number in range(400))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(WORDS)
    return path


@pytest.fixture
def run(tqc, artifact, text):
    """`run("--only", …)` evaluates the sum model over 100 words."""
    return lambda *words: tqc("eval", artifact, "--text", text, "--tokens", 100, "--chunk", 16, *words)


def test_tables(run, artifact):
    done = run("--only", "bytes,fidelity", "--reference", artifact)
    assert done.status == 0, done.err
    out = " ".join(done.out.split())
    for words in ("sum tq4", "Reference: sum tq4", "words.txt, 400 tokens", "20 B a coded token", "3.20× smaller"):
        assert words in out
    for words in (
        "Fidelity over 100 predictions",
        "windows of 64 tokens",
        "same next token 100.00 %",
        "change +0.00 %",
    ):
        assert words in out


def test_json_is_the_document(run, artifact, tmp_path):
    path = tmp_path / "r.json"
    done = run("--only", "bytes,fidelity", "--reference", artifact, "--json", "-o", path)
    results = Results.model_validate_json(done.out)
    assert results == read_results(path)
    assert set(results.finished) == {"bytes", "fidelity"}
    assert (results.fidelity.agreement, results.fidelity.kl, results.fidelity.tokens) == (1.0, 0.0, 100)
    assert [part.tokens for part in results.fidelity.windows] == [64, 36]
    assert results.bytes.contexts[-1].tokens == 64
    assert results.layers is results.retrieval is None


def test_an_interrupted_run_goes_on(run, tmp_path, monkeypatch):
    whole = json.loads(run("--only", "fidelity", "--json").out)["fidelity"]
    path, measure, calls = tmp_path / "r.json", evaluation.measure_window, []

    def interrupted(*arguments, **options):
        calls.append(len(arguments[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(evaluation, "measure_window", interrupted)
    assert run("--only", "fidelity", "-o", path).status != 0
    half = read_results(path)
    assert (half.fidelity.tokens, half.fidelity.wanted, half.finished) == (64, 100, ())
    again = run("--only", "fidelity", "-o", path, "--json")
    assert calls == [65, 37, 37]
    assert json.loads(again.out)["fidelity"] == whole
    third = run("--only", "fidelity", "-o", path, "--json")
    assert len(calls) == 3, "nothing is measured again"
    assert third.out == again.out


def test_other_arguments_are_refused_unless_forced(run, tqc, artifact, text, tmp_path):
    path = tmp_path / "r.json"
    run("--only", "fidelity", "-o", path)
    before = path.read_bytes()
    other = ("eval", artifact, "--text", text, "--tokens", 50, "--only", "fidelity", "-o", path)
    done = tqc(*other)
    assert done.status == 1
    assert "tokens 50" in done.err
    assert path.read_bytes() == before
    assert tqc(*other, "--force").status == 0
    assert read_results(path).fidelity.tokens == 50


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", 400], "text is too short"),
        (["--tokens", 0], "tokens"),
        (["--only", "speed"], "sections"),
        (["--only", ""], "sections"),
        (["--chunk", 0], "chunk"),
        (["--depths", "0,2"], "depths"),
        (["--lengths", "many"], "no list of numbers"),
        (["--trials", 0], "trials"),
        (["--device", "tpu"], "device"),
        (["--only", "retrieval", "--lengths", "900"], "does not fit"),
        (["--only", "retrieval"], "does not fit"),
        (["--reference", "none.tqc"], "none.tqc"),
        (["--onnx", "none.onnx"], "none.onnx"),
        (["--onnx", "a.onnx", "--reference", "b.tqc"], "two references"),
        (["--text", "none.txt"], "none.txt"),
        (["-o", "none/r.json", "--only", "bytes"], "cannot be written"),
    ],
)
def test_bad_input_is_one_message_and_no_file(run, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words if "-o" in words else ["-o", "r.json", *words])
    assert done.status == 1
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_an_artifact_without_tokenizer_has_bytes_only(tqc, tmp_path, fake, sum_library):
    bare = fake.write_fake(tmp_path / "bare.tqc", sum_library)
    assert tqc("eval", bare, "--only", "bytes").status == 0
    done = tqc("eval", bare, "--only", "fidelity")
    assert done.status == 1
    assert "no tokenizer" in done.err
