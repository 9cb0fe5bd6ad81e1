from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tqc as package
from tqc.artifact import verify
from tqc.cli import main
from tqc.errors import ArtifactError


def test_every_verb_is_there(tqc):
    out = tqc("--help").out
    for verb in ("export", "plan", "compile", "generate", "eval", "inspect", "verify", "targets"):
        assert f" {verb} " in out


@pytest.mark.parametrize("verb", ["export", "plan", "compile", "generate", "eval", "inspect", "verify", "targets"])
def test_every_verb_prints_json_when_asked(tqc, verb):
    done = tqc(verb, "--help")
    assert done.status == 0
    assert "--json" in done.out


def test_version(tqc):
    assert tqc("--version").out == f"tqc {package.__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from tqc.cli.main import app; "
        "print([m for m in ('numpy', 'tvm', 'tvm_ffi', 'torch', 'onnx', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_an_error_is_a_message_not_a_traceback(tqc, tmp_path):
    done = tqc("inspect", tmp_path / "nothing.tqc")
    assert done.status == 1
    assert done.out == ""
    with pytest.raises(ArtifactError) as error:
        verify(tmp_path / "nothing.tqc")
    assert done.err == f"{error.value}\n"


def test_wrong_usage_is_status_2(tqc):
    assert tqc("inspect").status == 2
    assert tqc("no-such-verb").status == 2


def test_what_the_system_refuses_is_a_message_too(tqc, artifact, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "manifest.json")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    done = tqc("inspect", artifact)
    assert done.status == 1
    assert done.err == "[TQC] [Errno 13] Permission denied: 'manifest.json'\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(main, "app", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main.main()
