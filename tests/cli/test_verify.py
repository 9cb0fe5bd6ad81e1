from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def damaged(artifact, tmp_path):
    copy = tmp_path / "copy.tqc"
    shutil.copytree(artifact, copy)
    (copy / "tokenizer.json").unlink()
    params = copy / "params.safetensors"
    params.write_bytes(params.read_bytes()[:-1])
    return copy


def test_a_good_artifact(tqc, artifact):
    done = tqc("verify", artifact)
    assert done.status == 0
    assert done.out.count("ok  ") == 4
    assert "Runs on this CPU." in done.out
    assert tqc("verify", artifact, "--json").json["ok"] is True


def test_every_fault_is_listed(tqc, damaged):
    done = tqc("verify", damaged)
    assert done.status == 1
    for text in ("missing", "truncated", "copy the artifact again"):
        assert text in done.out
    done = tqc("verify", damaged, "--json")
    assert done.status == 1
    assert [(p["file"], p["reason"]) for p in done.json["problems"]] == [
        ("params.safetensors", "truncated"),
        ("tokenizer.json", "missing"),
    ]


def test_another_machine_is_no_fault_of_the_artifact(tqc, tmp_path, fake, sum_library):
    library = fake.make_manifest().libraries[0].model_copy(update={"cpu_level": "x86-64-v9"})
    done = tqc("verify", fake.write_fake(tmp_path / "m.tqc", sum_library, libraries=(library,)))
    assert done.status == 0
    assert "Does not run on this CPU" in done.out
