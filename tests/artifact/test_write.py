from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tqc.artifact import Param, verify, write
from tqc.errors import ArtifactError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_artifact_holds_what_it_was_given(tmp_path, make):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "notes.txt").write_text("not copied")
    out = make(tmp_path / "m.tqc", companions={"tokenizer.json": tmp_path / "model" / "tokenizer.json"})
    manifest = verify(out)
    assert set(contents(out)) == {"manifest.json", "params.safetensors", make.library, "tokenizer.json"}
    assert {name: entry.size for name, entry in manifest.files.items()} == {
        name: len(data) for name, data in contents(out).items() if name != "manifest.json"
    }
    assert manifest.params == ("w", "bias", "half")
    assert list(manifest.files) == sorted(manifest.files)


def test_same_inputs_give_the_same_bytes(tmp_path, make):
    (tmp_path / "elsewhere").mkdir()
    assert contents(make(tmp_path / "a.tqc")) == contents(make(tmp_path / "elsewhere" / "b.tqc"))


def test_an_existing_output_is_refused_without_force(tmp_path, make, artifact):
    before = contents(artifact)
    with pytest.raises(ArtifactError, match="already exists"):
        make(artifact)
    assert contents(artifact) == before
    make(artifact, force=True, manifest=make.manifest(vocab_size=33))
    assert verify(artifact).vocab_size == 33
    assert os.listdir(tmp_path) == ["model.tqc"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_force_replaces_nothing_but_artifacts(tmp_path, make, artifact, kind):
    out = tmp_path / "precious"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        out.symlink_to(artifact)
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
    with pytest.raises(ArtifactError, match="not an artifact"):
        make(out, force=True)
    assert out.exists()
    assert sorted(os.listdir(tmp_path)) == ["model.tqc", "precious"]


def test_an_artifact_made_in_the_meantime_is_kept_without_force(tmp_path, make, monkeypatch):
    def other_first(path):
        make(tmp_path / "m.tqc", manifest=make.manifest(vocab_size=33))
        make.write_library(path)

    with pytest.raises(ArtifactError, match="already exists"):
        make(tmp_path / "m.tqc", libraries={make.library: other_first})
    assert verify(tmp_path / "m.tqc").vocab_size == 33
    monkeypatch.setattr(write, "check_output", lambda *_: None)  # between the last look and the rename
    with pytest.raises(OSError, match="not empty"):
        make(tmp_path / "m.tqc")
    assert verify(tmp_path / "m.tqc").vocab_size == 33
    assert os.listdir(tmp_path) == ["m.tqc"]


def test_a_missing_parent_is_named(tmp_path, make):
    with pytest.raises(ArtifactError, match="does not exist"):
        make(tmp_path / "no" / "m.tqc")


def test_inputs_must_be_those_of_the_manifest(tmp_path, make):
    with pytest.raises(ArtifactError, match="libraries are not those"):
        make(tmp_path / "m.tqc", libraries={})
    with pytest.raises(ArtifactError, match="weights are not those"):
        make(tmp_path / "m.tqc", params=make.params()[:1])
    assert os.listdir(tmp_path) == []


def failing(error: BaseException) -> list[Param]:
    def read():
        raise error

    good = Param("w", (4,), "float32", lambda: np.zeros(4, np.float32))
    return [good, Param("bias", (3,), "float32", read), Param("half", (1,), "float32", read)]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(tmp_path, make, error):
    with pytest.raises(type(error)):
        make(tmp_path / "m.tqc", params=failing(error))
    assert os.listdir(tmp_path) == []


def test_a_failure_keeps_the_older_artifact(tmp_path, make, artifact):
    before = contents(artifact)
    with pytest.raises(RuntimeError):
        make(artifact, params=failing(RuntimeError("boom")), force=True)
    assert contents(artifact) == before
    assert os.listdir(tmp_path) == ["model.tqc"]


def test_a_failing_swap_puts_the_older_artifact_back(tmp_path, make, artifact, monkeypatch):
    before, rename = contents(artifact), Path.rename

    def fail_on_new(self, target):
        if self.name.endswith(".tmp"):
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(PermissionError):
        make(artifact, force=True)
    assert contents(artifact) == before
    assert os.listdir(tmp_path) == ["model.tqc"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained(tmp_path, make, code):
    with pytest.raises(ArtifactError, match="disk is full"):
        make(tmp_path / "m.tqc", params=failing(OSError(code, "full")))
    assert os.listdir(tmp_path) == []


def test_other_system_errors_are_not_called_a_full_disk(tmp_path, make):
    with pytest.raises(PermissionError):
        make(tmp_path / "m.tqc", params=failing(PermissionError(errno.EACCES, "no")))


def test_too_little_space_is_seen_before_writing(tmp_path, make):
    size = 1 << 60
    huge = Param("w", (size,), "uint8", lambda: pytest.fail("should not be read"))
    with pytest.raises(ArtifactError, match=f"{size:,} bytes free"):
        make(tmp_path / "m.tqc", params=[huge], manifest=make.manifest(params=("w",)))
    assert os.listdir(tmp_path) == []


def test_a_write_the_system_really_refuses(tmp_path):
    script = textwrap.dedent(
        """
        import resource, sys, importlib.util
        import numpy as np
        spec = importlib.util.spec_from_file_location("helper", sys.argv[1])
        helper = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(helper)
        from tqc.artifact import Param
        from tqc.errors import ArtifactError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        big = Param("w", (1 << 20,), "float32", lambda: np.zeros(1 << 20, np.float32))
        try:
            helper.make_artifact(helper.Path(sys.argv[2]), manifest=helper.make_manifest(params=("w",)), params=[big])
        except ArtifactError as error:
            print(error)
        """
    )
    helper = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", script, str(helper), str(tmp_path / "m.tqc")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "The disk is full; nothing was left behind" in done.stdout
    assert os.listdir(tmp_path) == []
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_files_are_on_the_disk_before_the_rename(tmp_path, make, monkeypatch):
    synced, real = [], os.fsync

    def fsync(descriptor):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(write.os, "fsync", fsync)
    make(tmp_path / "m.tqc")
    assert set(synced[:3]) == {make.library, "params.safetensors", "manifest.json"}


def test_the_manifest_is_readable_json(artifact):
    raw = json.loads((artifact / "manifest.json").read_text())
    assert raw["format_version"] == 1
    assert raw["source"]["file"] == "model.onnx"
