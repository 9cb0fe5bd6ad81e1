"""Lengths of queries and keys from the weights, against vectors that the model makes."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.compiler.calibrate import built_in_text, measure_key_means
from tqc.frontend import import_model
from tqc.passes.head_norms import head_norms


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_they_are_about_as_long_as_over_a_text(tiny_onnx, arch: str) -> None:
    path = tiny_onnx(arch=arch)
    imported = import_model(path)
    found = head_norms(imported.mod, imported.weights)
    measured = measure_key_means(
        path, imported.interface, built_in_text(), skip=4, layers=imported.layers, length=64, moments=True
    ).moments
    assert list(found) == list(measured)
    for layer, (query, key) in found.items():
        assert query == pytest.approx(np.sqrt(np.trace(measured[layer].queries, axis1=1, axis2=2).mean()), rel=0.3)
        assert key == pytest.approx(np.sqrt(np.trace(measured[layer].keys, axis1=1, axis2=2).mean()), rel=0.3)
