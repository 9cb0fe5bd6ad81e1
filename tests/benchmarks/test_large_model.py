"""The benchmark's measurement, on a model that is small but large beside a process that has no model yet."""

from __future__ import annotations

import pytest


@pytest.fixture
def run(tmp_path, scripts_folder):
    """Compiling 0.6 GB of zeros, most of them two matrices."""
    pytest.importorskip("torch", reason="the tokenizer is that of the tiny models")
    from large_model import measure, prepare

    from tqc.models.large import Geometry

    sizes = Geometry(hidden=1024, layers=2, heads=16, kv_heads=4, head_dim=64, intermediate=4096, vocab=64000)
    return measure(prepare(tmp_path, sizes, random=False))


def test_memory_grows_by_less_than_half_of_the_weights(run):
    assert run["weights"] > 600e6
    before = run["steps"]["measuring the model over a text"]["peak_so_far"]  # imported, and no weight was read yet
    assert run["peak"] - before < 0.45 * run["weights"]
    assert run["peak_anonymous"] <= run["peak"] <= run["allowed"]
