"""`tqc.sketch` appends the codec's projections and adds them back."""

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc.codec import sketch as codec
from tqc.codec.form import form
from tqc.dialect import sketch
from tqc.dialect.factors import constant_factor, is_constant_product

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("scheme", "dim", "seed"), [("tqp3", 64, 0), ("qjl2", 80, 3), ("qjl3o", 64, 0)])
def test_projections_are_appended(scheme, dim, seed):
    x = RNG.standard_normal((2, 3, 2, dim)).astype("float32")
    stored = form(scheme, dim)
    found = run_op(lambda x: sketch(x, scheme=scheme, head_dim=dim, seed=seed), x=x)
    np.testing.assert_array_equal(found[..., :dim], x)
    np.testing.assert_allclose(found[..., dim:], codec.project(x, stored, seed), atol=1e-5)


@pytest.mark.parametrize(("scheme", "dim"), [("tqp3", 64), ("qjl2", 80)])
def test_what_lies_in_the_sketch_is_added_back(scheme, dim):
    stored = form(scheme, dim)
    y = RNG.standard_normal((2, 3, 2, stored.rows)).astype("float32")
    found = run_op(lambda y: sketch(y, scheme=scheme, head_dim=dim, inverse=True), y=y)
    np.testing.assert_allclose(found, y[..., :dim] + y[..., dim:] @ codec.matrix(stored), atol=1e-5)


def test_it_is_a_product_with_one_matrix():
    x = RNG.standard_normal((4, 64)).astype("float32")
    build = relax.BlockBuilder().normalize
    call = build(sketch(relax.Var("x", relax.TensorType(x.shape, "float32")), scheme="qjl1", head_dim=64))
    assert is_constant_product(call)
    np.testing.assert_allclose(
        x @ constant_factor(call), run_op(lambda x: sketch(x, scheme="qjl1", head_dim=64), x=x), atol=1e-5
    )


def test_rejects_a_scheme_without_sketch_and_another_axis():
    x = relax.Var("x", relax.TensorType((4, 64), "float32"))
    with pytest.raises(ValueError, match="tq4 has no sketch"):
        sketch(x, scheme="tq4", head_dim=64)
    with pytest.raises(TypeError, match="last axis"):
        relax.BlockBuilder().normalize(sketch(x, scheme="qjl1", head_dim=64, inverse=True))
