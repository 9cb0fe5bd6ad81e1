from __future__ import annotations

import importlib.util

import pytest

from tqc.bench import cpu, cpu_peers, timing
from tqc.bench.results import read_results

ATTENTION = ("bench", "attention", "--heads", "2x1x64", "--contexts", "40,80", "--repeats", 1, "--threads", 1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(timing, "COPIES_BYTES", 1 << 16)
    monkeypatch.setattr(cpu, "COPY_BYTES", 1 << 16)
    monkeypatch.setattr(cpu, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("TVM_NUM_THREADS", "1")


def test_attention_writes_a_folder_and_goes_on(tqc, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    done = tqc(*ATTENTION, "--kv", "tq4", "-o", folder)
    assert done.status == 0, done.err
    for words in ("Decode attention, 2x1x64, batch 1", "onnxruntime", "tq4", "Quicker than a peer, 2x1x64, batch 1"):
        assert words in done.out
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "results.csv", "results.json"]
    results = read_results(folder / "results.json")
    assert [cell.context for cell in results.cells] == [40, 80]
    assert results.commands[0].startswith("tqc bench attention --heads 2x1x64")
    monkeypatch.setattr("tqc.bench.attention.run_checked", lambda *_: pytest.fail("measured again"))
    again = tqc(*ATTENTION, "--kv", "tq4", "-o", folder, "--json")
    assert again.json["cells"] == results.model_dump(mode="json")["cells"]
    for name in ("index.html", "results.csv"):
        (folder / name).unlink()
    assert tqc("bench", "page", folder).status == 0
    assert len(list(folder.iterdir())) == 3


def test_without_a_gpu_there_is_an_error_and_no_folder(tqc, tmp_path, monkeypatch):
    def missing(name, *_, **__):
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr("tqc.bench.gpu.find_gpu.__defaults__", (missing,))
    done = tqc("bench", "attention", "--target", "cuda", "-o", tmp_path / "out")
    assert done.status == 1
    for words in ("no NVIDIA GPU", "expected:", "found:", "next:"):
        assert words in done.err
    assert not (tmp_path / "out").exists()
    done = tqc("bench", "model", tmp_path, "--device", "cuda", "-o", tmp_path / "out")
    assert (done.status, (tmp_path / "out").exists()) == (1, False)
    assert "no NVIDIA GPU" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--contexts", "a"), "no list of numbers"),
        (("--contexts", ","), "no list of numbers"),
        (("--batch", "0"), "out of range"),
        (("--threads", "-1"), "out of range"),
        (("--heads", "3x2x64"), "heads"),
        (("--kv", "nothing"), "nothing"),
        (("--target", "tpu"), "unknown target"),
    ],
)
def test_options_that_are_wrong(tqc, words, said):
    done = tqc("bench", "attention", *words)
    assert done.status == 1
    assert said in done.err


def test_a_model_beside_another_artifact(tqc, artifact, tmp_path):
    words = ("--contexts", "8,16", "--new-tokens", 1, "--repeats", 2, "--prompt", 4, "--threads", 1)
    done = tqc("bench", "model", artifact, "--reference", artifact, *words, "-o", tmp_path / "out")
    assert done.status == 0, done.err
    for line in ("Decode, inter-token latency", "Prefill", "sum (2)"):
        assert line in done.out
    results = read_results(tmp_path / "out" / "results.json")
    assert [cell.context for cell in results.decode] == [8, 16]
    assert [line.engine for line in results.lines] == ["sum", "sum (2)"]


def test_the_status_says_that_nothing_of_ours_has_a_time(tqc, monkeypatch):
    monkeypatch.setattr("tqc.bench.cpu.own_makers", lambda *_, **__: iter(()))
    monkeypatch.setattr(cpu_peers, "peers", dict)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert tqc(*ATTENTION, "--kv", "tq4").status == 1


def test_lengths_may_be_written_short():
    from tqc.cli.bench import _numbers

    assert _numbers("--contexts", "2k, 300,1K") == (2048, 300, 1024)
    assert _numbers("--contexts", None) == ()
