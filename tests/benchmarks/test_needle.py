from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

TASK = {"needles": 2, "lookalikes": 1, "values": 1, "depths": [0.0, 1.0]}


class Oracle:
    """Looks up what followed the question's bytes in what it has read, but for the first `forgets` tokens."""

    def __init__(self, forgets: int = 0) -> None:
        self.forgets, self.decoded = forgets, 0
        self.reset()

    def reset(self) -> None:
        self.seen: list[int] = []

    def prefill(self, ids, *, all_logits=False):
        rows = [self.step(token) for token in ids]
        return [np.stack(rows)] if all_logits else rows[-1][None]

    def decode(self, ids):
        self.decoded += len(ids)
        return self.step(ids[0])[None]

    def step(self, token: int) -> np.ndarray:
        self.seen.append(token)
        text = bytes(self.seen)
        start = text.rfind(b"[")
        at = text.find(text[start:]) if start >= 0 else len(text)
        follows = text[at + len(text) - start] if start > at >= self.forgets else 0
        return np.eye(256)[follows]

    @property
    def kv_bytes(self):
        return SimpleNamespace(used=2 * len(self.seen), fp16=4 * len(self.seen))


def test_an_oracle_finds_every_needle():
    import needle

    oracle = Oracle()
    run = needle.retrieve(oracle, 600, 0, TASK)
    assert run["found"] == {"0.0": 2, "1.0": 2}
    assert oracle.decoded == needle.DECODED
    assert (run["kv_bytes"], run["kv_bytes_fp16"]) == (1200, 2400)
    assert run["decode_tokens_per_second"] > 0


def test_what_is_forgotten_is_not_found():
    import needle

    assert needle.retrieve(Oracle(forgets=300), 600, 0, TASK)["found"] == {"0.0": 0, "1.0": 2}


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    import needle

    opened = []

    def open_engine(path, threads):
        opened.append(path.name)
        return Oracle(0 if "fp32" in path.name else 300)

    monkeypatch.setattr(needle, "open_engine", open_engine)
    paths = [tmp_path / f"{name}.tqc" for name in ("fp32", "tq2")]
    for path in paths:
        path.mkdir()
        (path / "manifest.json").write_text(path.name)
    return SimpleNamespace(paths=list(map(str, paths)), opened=opened, output=tmp_path / "new" / "needle")


def run(artifacts, *more: str) -> dict:
    import needle

    arguments = [*artifacts.paths, "--lengths", "600", "400", "--depths", "0", "1", "--needles", "2"]
    needle.main([*arguments, "--output", str(artifacts.output), *more])
    return json.loads(artifacts.output.with_suffix(".json").read_text())


def test_the_table_says_what_each_artifact_found(artifacts):
    data = run(artifacts)
    assert [(r["artifact"], r["length"]) for r in data["runs"]] == [
        (name, length) for name in ("fp32", "tq2") for length in (400, 600)
    ]
    tables = artifacts.output.with_suffix(".md").read_text()
    assert "| cache | 400 | 600 |" in tables
    assert "| fp32 | 100 % | 100 % |" in tables
    assert "| tq2 | 0 % | 100 % |" in tables


def test_a_second_run_does_what_is_missing_only(artifacts):
    before = run(artifacts)["runs"]
    assert run(artifacts)["runs"] == before
    assert artifacts.opened == ["fp32.tqc", "tq2.tqc"]
    after = run(artifacts, "--haystacks", "2")["runs"]
    assert len(after) == 8
    assert all(one in after for one in before)


def test_an_artifact_that_changed_is_run_again(artifacts, tmp_path):
    run(artifacts)
    (tmp_path / "tq2.tqc" / "manifest.json").write_text("another")
    data = run(artifacts)
    assert artifacts.opened == ["fp32.tqc", "tq2.tqc", "tq2.tqc"]
    assert len(data["runs"]) == 4


def test_reject_results_of_another_task(artifacts):
    run(artifacts)
    with pytest.raises(SystemExit, match="another task"):
        run(artifacts, "--values", "2")
