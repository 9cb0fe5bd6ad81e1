"""Damaged files: refused with an error that says where, or read as onnxruntime reads them. No crash, no hang.

`benchmarks/corruptions.py` does the same at length.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import corruptions

    yield corruptions
    for name in ("corruptions", "corrupting"):
        del sys.modules[name]


def test_damaged_files_are_refused_or_right(harness, exported, decoder, tmp_path):
    sources = [exported(name) for name in ("llama", "mistral-14")] + [decoder(mask="window").save(tmp_path)]
    found = harness.run(harness.cases(sources, 150, seed=0))
    outcomes = [entry["outcome"] for entry in found]
    bad = [e for e in found if e["outcome"] not in harness.GOOD or e["outcome"] == "unforeseen error"]
    assert not bad
    assert outcomes.count("refused") > 50
    assert outcomes.count("right") > 10


def test_a_crash_counts_as_one_file_and_the_next_is_judged(harness, decoder, tmp_path, monkeypatch):
    """The worker is killed in the middle of its first file."""
    worker, path = harness.Worker(), decoder().save(tmp_path)
    monkeypatch.setattr(harness, "SECONDS", 0.05)
    assert worker.judge(path)["outcome"] == "hang"
    monkeypatch.setattr(harness, "SECONDS", 60)
    assert worker.judge(path)["outcome"] == "right"
    worker.close()
