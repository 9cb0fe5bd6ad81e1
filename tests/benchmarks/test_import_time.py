from __future__ import annotations

import pytest


@pytest.fixture
def model(tmp_path):
    from tqc.models.large import Geometry, write_large

    sizes = Geometry(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, intermediate=32, vocab=64)
    return write_large(tmp_path, sizes, random=False)


def test_every_step_is_timed_and_none_twice(model):
    from import_time import STEPS, measure

    run = measure(model)
    steps = {name for names in STEPS.values() for name in names}
    assert steps | {"rest", "total", "nodes"} == set(run)
    assert run["rest"] >= 0
    assert run["nodes"] > 100
    assert sum(run[step] for step in steps) + run["rest"] == pytest.approx(run["total"])


def test_growth():
    from import_time import growth

    assert growth({2: {"total": 9.0}, 8: {"total": 1.0}, 32: {"total": 4.0}}, "total") == pytest.approx(1)
    assert growth({8: {"total": 1.0}, 16: {"total": 4.0}}, "total") == pytest.approx(2)
