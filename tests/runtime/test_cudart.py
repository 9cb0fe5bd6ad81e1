"""The CUDA runtime is looked for in named places, and its absence is a message."""

import ctypes

import pytest

from tqc.errors import SessionError
from tqc.runtime import library


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """The names that are tried; none can be loaded."""
    names = []

    def refuse(name, mode=0):
        names.append(name)
        raise OSError(f"{name}: cannot open")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("CUDA_PATH", raising=False)
    return names


def test_a_toolkit_comes_before_the_loaders_path(tried, tmp_path):
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / library.CUDART).write_bytes(b"")
    with pytest.raises(SessionError, match="cannot be loaded"):
        library._load_cudart()
    assert tried == [str(tmp_path / "lib64" / library.CUDART), library.CUDART]


def test_without_any_the_loaders_path_is_tried(tried):
    with pytest.raises(SessionError, match="CUDA_HOME"):
        library._load_cudart()
    assert tried == [library.CUDART]
