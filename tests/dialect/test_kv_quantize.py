"""`tqc.kv_quantize` against the codec in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from run_op import run_op
from tvm import relax

from tqc import dialect
from tqc.codec import get
from tqc.dialect import is_op_call
from tqc.dialect.kv_quantize import emit_quantized, form_without_basis
from tqc.errors import CodecError

SCHEMES = ["tq1", "tq3", "tq4", "tq8", "tqp2", "tqp4", "qjl1", "qjl3", "polar", "polar-plain", "fp16", "bf16", "fp32"]


def _both(x, scheme, **options):
    actual = run_op(lambda x: dialect.kv_quantize(x, scheme=scheme, **options), x=x)
    codec = get(scheme, x.shape[-1], **options)
    return actual, codec.decode(codec.encode(x))


def _agree(actual, expected):
    """Equal vectors, but for one or two that another rounding puts on the other side of a threshold."""
    wrong = np.abs(actual - expected).max(axis=-1) > 1e-4
    assert wrong.sum() <= 2, f"{wrong.sum()} of {wrong.size} vectors differ"
    np.testing.assert_allclose(actual, expected, atol=2, rtol=0)


@pytest.mark.parametrize(
    ("scheme", "dim"), [*((name, 64) for name in SCHEMES), ("tqp3", 80), ("polar", 96), ("tq4-s8", 64), ("tqp3-s8", 64)]
)
def test_equals_the_codec(scheme, dim):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, dim), np.float32) * 3
    _agree(*_both(x, scheme))


@pytest.mark.parametrize("scheme", ["tqp3", "polar"])
def test_seed_and_rounds_are_those_of_the_codec(scheme):
    x = np.random.default_rng(1).standard_normal((2, 3, 7, 64), np.float32)
    _agree(*_both(x, scheme, seed=3, rounds=2))


@pytest.mark.parametrize("scheme", ["tq4", "tq3-s8", "tqp3", "qjl1", "polar", "polar-plain"])
def test_zeros_stay_zero_and_nan_stays_in_its_vector(scheme):
    x = np.random.default_rng(0).standard_normal((1, 4, 16), np.float32)
    x[0, 1], x[0, 2, 3] = 0, np.nan
    actual, expected = _both(x, scheme)
    assert (actual[0, 1] == 0).all()
    assert np.isnan(actual[0, 2]).all()
    assert np.isnan(expected[0, 2]).all()
    assert np.isfinite(actual[0, [0, 3]]).all()


def test_half_precision_vectors_keep_their_type():
    x = np.random.default_rng(0).standard_normal((5, 64)).astype("float16")
    actual = run_op(lambda x: dialect.kv_quantize(x, scheme="tqp4"), x=x)
    codec = get("tqp4", 64)
    assert str(actual.dtype) == "float16"
    np.testing.assert_allclose(actual, codec.decode(codec.encode(x)), atol=4e-3)


@pytest.mark.parametrize(("scheme", "hint"), [("tq2.5", "tq3"), ("16@5+48@2", "tq4"), ("qjl2o", "qjl2")])
def test_reject_schemes_that_need_a_measured_basis(scheme, hint):
    with pytest.raises(CodecError, match="needs a basis") as caught:
        form_without_basis(scheme, 64)
    assert f"{hint} needs none" in str(caught.value)


def test_the_signs_of_the_residual_are_ops_in_the_ir():
    x = relax.Var("x", relax.TensorType((2, 64), "float32"))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(emit_quantized(bb, x, scheme="tqp3"))
        bb.emit_func_output(out)
    values = [binding.value for block in bb.get()["main"].body.blocks for binding in block.bindings]
    wanted = ["rotate", "kv_codes", "sign_sketch", "sign_values", "sketch", "rotate"]
    assert [name for value in values for name in set(wanted) if is_op_call(value, name)] == wanted
