"""The sum model of `fake_model.py`, compiled once a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `fake_model`; TVMScript wants it findable by name."""
    spec = importlib.util.spec_from_file_location("tqc_fake_model", Path(__file__).with_name("fake_model.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sum_library(tmp_path_factory, fake) -> Path:
    path = tmp_path_factory.mktemp("library") / "sum.so"
    fake.export(path)
    return path


@pytest.fixture(scope="session")
def sum_artifact(tmp_path_factory, fake, sum_library) -> Path:
    return fake.write_fake(tmp_path_factory.mktemp("artifact") / "sum.tqc", sum_library)
