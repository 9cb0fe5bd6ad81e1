from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from tqc.frontend import import_model
from tqc.models.large import Geometry, write_large

GEOMETRY = Geometry(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=300)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_it_runs_and_is_understood(tmp_path, dtype):
    path = write_large(tmp_path, Geometry(**{**GEOMETRY.__dict__, "dtype": dtype}))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    past, random = np.zeros((2, 2, 5, 16), dtype), np.random.default_rng(0)
    feeds = {entry.name: past for entry in session.get_inputs()}
    feeds["input_ids"] = random.integers(0, 300, (2, 3))
    feeds |= {"position_ids": np.array([[5, 6, 7]] * 2), "attention_mask": np.ones((2, 8), np.int64)}
    logits, *present = session.run(None, feeds)
    assert logits.shape == (2, 3, 300)
    assert 0 < logits.std() < np.inf
    assert {array.shape for array in present} == {(2, 2, 8, 16)}
    imported = import_model(path)
    assert [(layer.query_heads, layer.kv_heads, layer.head_dim) for layer in imported.layers] == [(4, 2, 16)] * 2
    assert imported.dtype == dtype


def test_a_hole_is_zeros_and_takes_no_space(tmp_path):
    data = write_large(tmp_path, GEOMETRY, random=False).with_name("model.onnx.data")
    assert data.stat().st_size > 200_000
    assert data.stat().st_blocks == 0
    assert not np.fromfile(data, np.float32).any()


def test_random_numbers_fill_the_file(tmp_path):
    data = write_large(tmp_path, GEOMETRY).with_name("model.onnx.data")
    assert 0.019 < np.fromfile(data, np.float32).std() < 0.021
