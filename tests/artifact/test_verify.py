"""Attacks on an artifact, each refused with its reason."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tqc.artifact import Manifest, problems, read_manifest, verify
from tqc.artifact.verify import machine_of
from tqc.errors import ArtifactError


def edit(artifact: Path, reseal: bool = False, **changes) -> None:
    """Changes top-level fields of the manifest, as a careful attacker (`reseal`) or a careless one would."""
    file = artifact / "manifest.json"
    raw = {**json.loads(file.read_text()), **changes}
    file.write_bytes(Manifest.model_validate_json(json.dumps(raw)).to_bytes() if reseal else json.dumps(raw).encode())


def test_an_untouched_artifact_passes(artifact):
    assert verify(artifact) == read_manifest(artifact)
    assert list(problems(artifact, read_manifest(artifact))) == []


def test_files_it_does_not_name_are_ignored(artifact):
    (artifact / ".DS_Store").write_bytes(b"x")
    (artifact / "evil.so").write_bytes(b"x")
    verify(artifact)


@pytest.mark.parametrize("name", ["params.safetensors", "model-cpu-x86-64-v2.so"])
def test_damaged_files(artifact, name):
    file = artifact / name
    good = file.read_bytes()
    for reason, what, content in (
        ("truncated", "truncated", good[:-1]),
        ("size", "longer", good + b"\0"),
        ("changed", "changed", good[:-1] + bytes([good[-1] ^ 1])),
    ):
        file.write_bytes(content)
        assert [(p.reason, p.file) for p in problems(artifact, read_manifest(artifact))] == [(reason, name)]
        with pytest.raises(ArtifactError, match=what):
            verify(artifact)
    file.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        verify(artifact)
    file.mkdir()
    with pytest.raises(ArtifactError, match="not a regular file"):
        verify(artifact)


def test_every_problem_is_listed(artifact):
    for file in artifact.iterdir():
        if file.name != "manifest.json":
            file.unlink()
    assert len(list(problems(artifact, read_manifest(artifact)))) == 2


def test_without_digests_sizes_still_count(artifact):
    file = artifact / "params.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"!")
    verify(artifact, digests=False)
    file.write_bytes(good[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        verify(artifact, digests=False)


def test_no_artifact_at_all(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact here"):
        verify(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="no manifest"):
        verify(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_not_json(artifact, text):
    (artifact / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError, match="not JSON"):
        verify(artifact)


def test_a_truncated_manifest(artifact):
    file = artifact / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="not JSON"):
        verify(artifact)


def test_a_huge_manifest_is_not_read(artifact):
    os.truncate(artifact / "manifest.json", 1 << 40)
    with pytest.raises(ArtifactError, match="too long"):
        verify(artifact)


def test_a_newer_format_is_named_before_its_fields_are_read(artifact):
    edit(artifact, format_version=2, something_new=True)
    with pytest.raises(ArtifactError, match="newer than this tqc"):
        verify(artifact)


@pytest.mark.parametrize("changes", [{"surprise": 1}, {"vocab_size": "32"}, {"files": {}}, {"format_version": True}])
def test_an_invalid_manifest(artifact, changes):
    edit(artifact, **changes)
    with pytest.raises(ArtifactError, match="manifest is invalid"):
        verify(artifact)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", "manifest.json"])
def test_names_that_escape_the_folder(artifact, name):
    files = json.loads((artifact / "manifest.json").read_text())["files"]
    edit(artifact, files={**files, name: {"size": 1, "sha256": "0" * 64}})
    with pytest.raises(ArtifactError, match="manifest is invalid"):
        verify(artifact)


def test_a_changed_manifest(artifact):
    edit(artifact, vocab_size=33)
    with pytest.raises(ArtifactError, match="manifest was changed"):
        verify(artifact)


def test_a_library_for_another_processor(tmp_path, make):
    head = bytearray(Path(sys.executable).resolve().read_bytes()[:64])
    other, name = (40, "arm") if machine_of(Path(sys.executable)).startswith("aarch64") else (183, "aarch64")
    head[18:20] = other.to_bytes(2, "little")
    out = make(tmp_path / "m.tqc", libraries={make.library: lambda path: path.write_bytes(head)})
    with pytest.raises(ArtifactError, match=f"another processor(.|\n)*found: {name}"):
        verify(out)


def test_a_library_that_is_no_library(tmp_path, make):
    out = make(tmp_path / "m.tqc", libraries={make.library: lambda path: path.write_bytes(b"#!/bin/sh\n")})
    with pytest.raises(ArtifactError, match="not an ELF library"):
        verify(out)


def test_weights_other_than_the_manifest_says(artifact):
    edit(artifact, reseal=True, params=["w", "bias", "other"])
    with pytest.raises(ArtifactError, match="weights are not those"):
        verify(artifact)


def test_any_flipped_bit_is_found(artifact):
    random = np.random.default_rng(0)
    for file in sorted(artifact.iterdir()):
        good = file.read_bytes()
        for position in random.integers(0, 8 * len(good), 150):
            bad = bytearray(good)
            bad[position // 8] ^= 1 << position % 8
            file.write_bytes(bad)
            with pytest.raises(ArtifactError):
                verify(artifact)
        file.write_bytes(good)
    verify(artifact)
