from __future__ import annotations

import os

import pytest

from tqc.artifact import problems, read_manifest, verify
from tqc.artifact.embed import REPORT, embed_report, identity
from tqc.errors import ArtifactError


def test_a_report_is_listed_digested_and_replaced(artifact):
    before = read_manifest(artifact)
    first = embed_report(artifact, b"<p>one</p>")
    assert first.files[REPORT].size == len(b"<p>one</p>")
    assert verify(artifact) == first
    second = embed_report(artifact, b"<p>another one</p>")
    assert verify(artifact) == second
    assert (artifact / REPORT).read_bytes() == b"<p>another one</p>"
    assert {name for name in second.files if name != REPORT} == set(before.files)
    assert sorted(path.name for path in artifact.iterdir()) == sorted([*second.files, "manifest.json"])


def test_the_same_report_gives_the_same_bytes(artifact):
    embed_report(artifact, b"page")
    once = (artifact / "manifest.json").read_bytes()
    embed_report(artifact, b"page")
    assert (artifact / "manifest.json").read_bytes() == once


def test_the_identity_is_that_of_what_was_compiled(artifact, tmp_path, make):
    compiled = read_manifest(artifact)
    assert identity(compiled) == compiled.manifest_sha256
    assert identity(embed_report(artifact, b"page")) == compiled.manifest_sha256
    other = make(tmp_path / "other.tqc", manifest=make.manifest(max_context=2048))
    assert identity(read_manifest(other)) != compiled.manifest_sha256


def test_a_changed_report_is_noticed(artifact):
    manifest = embed_report(artifact, b"page")
    (artifact / REPORT).write_bytes(b"pago")
    assert [(problem.file, problem.reason) for problem in problems(artifact, manifest)] == [(REPORT, "changed")]


@pytest.mark.parametrize("crash_at", range(3))
def test_a_crash_at_any_rename_leaves_a_whole_artifact(artifact, monkeypatch, crash_at):
    embed_report(artifact, b"old")
    calls, rename = [], os.replace

    def crash(source, target):
        calls.append(target)
        if len(calls) == crash_at + 1:
            raise OSError(28, "full")
        rename(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(ArtifactError, match="No space left"):
        embed_report(artifact, b"new page")
    verify(artifact)
    assert not list(artifact.glob(".*"))
    monkeypatch.undo()
    embed_report(artifact, b"new page")
    verify(artifact)


def test_a_folder_in_the_way_and_no_artifact(artifact, tmp_path):
    (artifact / REPORT).mkdir()
    with pytest.raises(ArtifactError, match="folder where the report belongs"):
        embed_report(artifact, b"page")
    with pytest.raises(ArtifactError, match="no artifact"):
        embed_report(tmp_path / "nothing", b"page")
