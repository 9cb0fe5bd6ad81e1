from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tvm_ffi

import tqc
from tqc.errors import SessionError
from tqc.runtime import library
from tqc.runtime.library import open_library

SCRIPT = """
import sys
import tqc
session = tqc.load(sys.argv[1], batch=2)
session.prefill([[1, 2], [3]])
print(session.decode([4, 5]).argmax(-1).tolist(), session.length)
maps = open("/proc/self/maps").read()
print("compiler mapped:", "libtvm_compiler" in maps, "| tvm imported:", "tvm" in sys.modules)
print("ours:", sorted(name for name in sys.modules if name.startswith("tqc.")))
"""


def run(artifact: Path, **environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT, str(artifact)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_the_compiler_nor_its_package_is_loaded(sum_artifact, fake):
    text = run(sum_artifact)
    expected = [fake.next_token([1, 2, 4]), fake.next_token([3, 5])]
    assert f"{expected} (3, 2)" in text
    assert "compiler mapped: False | tvm imported: False" in text
    ours = text.split("ours:")[1]
    for package in ("frontend", "passes", "schedules", "dialect", "codegen", "codec", "cli"):
        assert f"tqc.{package}" not in ours


def test_it_runs_where_the_compiler_is_not_installed(sum_artifact, tmp_path):
    """A tvm package with nothing but the runtime library comes before the installed one."""
    installed = Path(importlib.util.find_spec("tvm").submodule_search_locations[0])
    (tmp_path / "tvm" / "lib").mkdir(parents=True)
    (tmp_path / "tvm" / "__init__.py").write_text("raise ImportError('the runtime must not import tvm')\n")
    shutil.copy(installed / "lib" / "libtvm_runtime.so", tmp_path / "tvm" / "lib")
    assert "(3, 2)" in run(sum_artifact, PYTHONPATH=str(tmp_path))


def test_a_library_without_a_model(tmp_path):
    source = tmp_path / "empty.c"
    source.write_text("int nothing(void) { return 0; }\n")
    empty = tmp_path / "empty.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(empty), str(source)], check=True)
    with pytest.raises(SessionError, match="holds no model"):
        open_library(empty, "cpu", 0)


def test_a_library_the_system_cannot_map(tmp_path):
    (tmp_path / "junk.so").write_bytes(b"\x7fELF" + b"junk" * 100)
    with pytest.raises(SessionError, match="cannot be loaded"):
        open_library(tmp_path / "junk.so", "cpu", 0)


def test_a_missing_function_is_named(sum_artifact, fake):
    function = open_library(sum_artifact / fake.LIBRARY, "cpu", 0)
    with pytest.raises(SessionError, match=r"lacks a function(.|\n)*verify_draft"):
        function("verify_draft")


def test_sessions_of_one_artifact_share_its_module(sum_artifact, fake, monkeypatch):
    """A second module of the same file would take the mapped code with it when it goes."""
    opened = [tqc.load(sum_artifact) for _ in range(2)]
    monkeypatch.setattr(library.tvm_ffi, "load_module", lambda *_: pytest.fail("mapped again"))
    del opened[1]
    other = tqc.load(sum_artifact, max_context=20)
    for number, session in enumerate((opened[0], other)):
        ids = [number + 1, 2, 3]
        assert session.prefill(ids).argmax() == fake.next_token(ids)
    assert opened[0].length == other.length == (3,)


def test_a_replaced_library_is_mapped_anew(sum_artifact, fake, tmp_path):
    copy = Path(shutil.copytree(sum_artifact, tmp_path / "copy.tqc"))
    before = tqc.load(copy)
    shutil.rmtree(copy)
    shutil.copytree(sum_artifact, copy)
    calls, real = [], tvm_ffi.load_module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.tvm_ffi, "load_module", lambda path: calls.append(path) or real(path))
        after = tqc.load(copy)
    assert len(calls) == 1
    for session in (after, before):
        assert session.prefill([1, 2]).argmax() == fake.next_token([1, 2])
