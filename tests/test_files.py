"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tqc.files import replace_file


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    replace_file(path, b"one")
    before = path.open("rb")
    replace_file(path, b"two")
    assert before.read() == b"one"
    assert path.read_bytes() == b"two"
    other = tmp_path / "other"
    other.write_bytes(b"")
    assert path.stat().st_mode == other.stat().st_mode


def test_nothing_is_left_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    replace_file(path, b"one")

    def fail(*_names: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, b"two")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]
    assert path.read_bytes() == b"one"
