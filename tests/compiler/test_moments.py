"""Second moments by hand, and those of a model against torch's view of its tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tqc.compiler.calibrate import built_in_text, measure_key_means
from tqc.compiler.moments import Moments, Sample, grouped, second_moment
from tqc.frontend import import_model


def test_moments_of_vectors() -> None:
    x = np.random.default_rng(0).standard_normal((2, 500, 3)).astype(np.float32) + np.arange(1, 4)
    for head in range(2):
        np.testing.assert_allclose(second_moment(x)[head], x[head].T @ x[head] / 500, atol=1e-12)


def test_heads_of_a_group_are_averaged() -> None:
    heads = np.arange(6.0)[:, None, None] * np.eye(2)
    np.testing.assert_array_equal(grouped(heads, 2)[:, 0, 0], [1, 4])


def test_centred() -> None:
    x = np.random.default_rng(0).standard_normal((2, 500, 3)) + np.arange(1, 4)
    moments = Moments(second_moment(x), second_moment(x), x.mean(axis=1))
    np.testing.assert_allclose(moments.centred_keys[1], np.cov(x[1].T, bias=True), atol=1e-12)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_of_a_model(tiny_onnx, arch: str) -> None:
    path = tiny_onnx(arch=arch)
    imported = import_model(path)
    options = {"skip": 4, "layers": imported.layers, "length": 4096}
    samples = {}

    def keep(layer: int, sample: Sample, _moments: Moments) -> None:
        samples[layer] = sample

    found = measure_key_means(path, imported.interface, built_in_text(), moments=True, on_layer=keep, **options)
    plain = measure_key_means(path, imported.interface, built_in_text(), **options)
    assert not plain.moments
    assert all(layer.rope is not None for layer in imported.layers)
    assert list(found.moments) == [layer.layer for layer in imported.layers]
    for layer, moments in zip(imported.layers, found.moments.values(), strict=True):
        for matrix in (moments.keys, moments.values, moments.queries):
            assert matrix.shape == (layer.kv_heads, layer.head_dim, layer.head_dim)
            assert np.linalg.eigvalsh(matrix).min() > -1e-9
            np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), atol=1e-9)
        np.testing.assert_allclose(found.means[layer.layer], moments.mean, atol=1e-6)
        sample = samples[layer.layer]
        assert sample.queries.shape == (layer.query_heads, *sample.keys.shape[1:])
        assert sample.residual.shape[0] == sample.keys.shape[1] == found.tokens + 4


def test_tensors_that_the_file_does_not_have(tiny_onnx) -> None:
    path = tiny_onnx(arch="llama")
    imported = import_model(path)
    layers = [replace(layer, query="made by expanding", residual="") for layer in imported.layers]
    found = measure_key_means(path, imported.interface, built_in_text(), skip=4, moments=True, layers=layers)
    assert found.moments[0].queries is None
