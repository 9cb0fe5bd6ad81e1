"""Norms equal onnxruntime's own kernels, all of their outputs."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import FrontendError

RNG = np.random.default_rng(0)
WIDTH = 24


def draw(*shape, dtype="float32"):
    return RNG.standard_normal(shape, np.float32).astype(dtype)


def vectors(*names, dtype="float32"):
    return {name: draw(WIDTH, dtype=dtype) + np.asarray(1, dtype) for name in names}


@pytest.mark.parametrize(("op", "opset"), [("SimplifiedLayerNormalization", 18), ("RMSNormalization", 23)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rms_norm(bench, op, opset, dtype):
    made = bench({"x": draw(2, 3, WIDTH, dtype=dtype)}, vectors("w", dtype=dtype), op, "xw", opset=opset, epsilon=0.05)
    made.check(1e-5 if dtype == "float32" else 4e-3)
    assert [node.kind for node in made.expansion.nodes] == ["tqc::RMSNorm"]


def test_the_result_has_the_type_of_the_weight(bench):
    made = bench({"x": draw(2, 3, WIDTH)}, vectors("w", dtype="float16"), "SimplifiedLayerNormalization", "xw")
    made.check(4e-3)
    assert [node.kind for node in made.expansion.nodes] == ["tqc::RMSNorm", "Cast"]


def test_one_factor_for_all_columns(bench):
    constants = {"p": draw(3, WIDTH), "w": np.array([1.5], np.float32)}
    made = bench({}, constants, "RMSNormalization", "pw", opset=23)
    assert made.expand() == ["tqc::RMSNorm"]
    factors = made.graph.constants[made.expansion.nodes[0].inputs[1]]
    np.testing.assert_array_equal(factors, np.full(WIDTH, 1.5, np.float32))


@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "sum"]], ids=len)
@pytest.mark.parametrize("bias", [[], ["bias"]], ids=len)
def test_skip_simplified_layer_norm(bench, outputs, bias):
    feeds = {"x": draw(2, 3, WIDTH), "skip": draw(2, 3, WIDTH)}
    names = [*feeds, "w", *bias]
    constants = vectors("w", *bias)
    bench(feeds, constants, "com.microsoft::SkipSimplifiedLayerNormalization", names, outputs, epsilon=1e-3).check()


@pytest.mark.parametrize("extra", [[], ["beta"], ["beta", "bias"], ["", "bias"]], ids=str)
def test_skip_layer_norm(bench, extra):
    feeds = {"x": draw(2, 3, WIDTH), "skip": draw(2, 3, WIDTH)}
    constants = vectors("w", *filter(None, extra))
    names, outputs = [*feeds, "w", *extra], ["y", "", "", "sum"]
    bench(feeds, constants, "com.microsoft::SkipLayerNormalization", names, outputs, epsilon=1e-3).check()


@pytest.mark.parametrize(
    ("attrs", "message"), [({"axis": 1}, "other axes"), ({"stash_type": 16}, "another type")], ids=["axis", "stash"]
)
def test_refused_norms(bench, attrs, message):
    made = bench({"x": draw(2, 3, WIDTH)}, vectors("w"), "RMSNormalization", "xw", opset=23, **attrs)
    with pytest.raises(FrontendError, match=message) as error:
        made.expand()
    assert "composite" in str(error.value)


def test_a_positive_axis_may_be_the_last(bench):
    bench({"x": draw(2, 3, WIDTH)}, vectors("w"), "RMSNormalization", "xw", opset=23, axis=2).check()


def test_statistics_in_use_are_refused(bench):
    feeds = {"x": draw(2, 3, WIDTH), "skip": draw(2, 3, WIDTH)}
    op = "com.microsoft::SkipSimplifiedLayerNormalization"
    made = bench(feeds, vectors("w"), op, [*feeds, "w"], ["y", "", "deviation"])
    with pytest.raises(FrontendError, match="training"):
        made.expand()
