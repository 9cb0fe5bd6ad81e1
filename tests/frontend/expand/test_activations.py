"""Activations and fused products equal onnxruntime's own kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError
from tqc.frontend.weights import ArrayTensor, Weight

RNG = np.random.default_rng(0)


def draw(*shape, dtype="float32"):
    return RNG.standard_normal(shape, np.float32).astype(dtype)


@pytest.mark.parametrize("op", ["Gelu", "QuickGelu", "FastGelu"])
def test_activation(bench, op):
    bench({"x": draw(2, 3, 8)}, {}, f"com.microsoft::{op}", opset=20).check()


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_activation_with_bias(bench, op):
    bench({"x": draw(2, 3, 8)}, {"b": draw(8)}, f"com.microsoft::{op}", "xb", opset=20).check()


@pytest.mark.parametrize(("op", "opset"), [("com.microsoft::QuickGelu", 18), ("Swish", 24)])
@pytest.mark.parametrize("alpha", [1.0, 0.7])
def test_swish(bench, op, opset, alpha):
    x = draw(2, 3, 8)
    made = bench({"x": x}, {}, op, opset=opset, alpha=alpha)
    made.expand()
    np.testing.assert_allclose(made.run()[0], x / (1 + np.exp(-alpha * x)), rtol=0, atol=1e-5)


def test_bias_and_residual(bench):
    made = bench(
        {"x": draw(2, 3, 8), "skip": draw(2, 3, 8)}, {"b": draw(8)}, "com.microsoft::BiasAdd", ["x", "b", "skip"]
    )
    assert made.expand() == ["Add", "Add"]
    expected = made.feeds["x"] + made.constants["b"] + made.feeds["skip"]
    np.testing.assert_allclose(made.run()[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "attrs", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.25, "transA": 1, "transB": 1}], ids=str
)
def test_fused_matmul(bench, attrs):
    a = draw(2, 2, 8, 5) if attrs.get("transA") else draw(2, 2, 5, 8)
    b = draw(2, 2, 3, 8) if attrs.get("transB") else draw(2, 2, 8, 3)
    bench({"a": a, "b": b}, {}, "com.microsoft::FusedMatMul", "ab", **attrs).check()


def test_a_transposed_weight_stays_a_weight(bench):
    array = draw(4, 8)
    made = bench({"x": draw(2, 3, 8)}, {"w": array}, "com.microsoft::FusedMatMul", "xw", transB=1)
    del made.graph.constants["w"]
    made.graph.weights["w"] = Weight("w", (4, 8), "float32", ArrayTensor(array), "w")
    assert made.expand() == ["MatMul"]
    np.testing.assert_array_equal(made.graph.weights[made.expansion.nodes[0].inputs[1]].numpy(), array.T)


def test_swapped_batch_axes_are_refused(bench):
    made = bench({"a": draw(2, 2, 8, 5), "b": draw(2, 2, 5, 3)}, {}, "com.microsoft::FusedMatMul", "ab", transBatchA=1)
    with pytest.raises(FrontendError, match="batch axes"):
        made.expand()


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid"])
def test_fused_gemm(bench, activation):
    constants = {"w": draw(4, 8), "c": draw(4)}
    made = bench(
        {"x": draw(3, 8)}, constants, "com.microsoft::FusedGemm", "xwc", activation=activation, transB=1, alpha=0.5
    )
    made.check()


def test_an_unknown_activation_is_refused(bench):
    constants = {"w": draw(8, 4), "c": draw(4)}
    made = bench({"x": draw(3, 8)}, constants, "com.microsoft::FusedGemm", "xwc", activation="HardSwish")
    with pytest.raises(FrontendError, match="HardSwish"):
        made.expand()
