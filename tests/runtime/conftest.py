"""The sum model of `fake_model.py` as an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sum_artifact(tmp_path_factory, fake, sum_library) -> Path:
    return fake.write_fake(tmp_path_factory.mktemp("artifact") / "sum.tqc", sum_library)
