"""`tqc.kv_quantize` against the codec in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from run_op import run_op

from tqc import dialect
from tqc.codec import get


def _both(x, scheme):
    actual = run_op(lambda x: dialect.kv_quantize(x, scheme=scheme), x=x)
    codec = get(scheme, x.shape[-1])
    return actual, codec.decode(codec.encode(x))


@pytest.mark.parametrize("scheme", ["tq1", "tq3", "tq4", "tq8", "fp16", "fp32"])
@pytest.mark.parametrize("dim", [64, 80])
def test_equals_the_codec(scheme, dim):
    x = np.random.default_rng(0).standard_normal((2, 3, 7, dim), np.float32) * 3
    actual, expected = _both(x, scheme)
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_zeros_stay_zero_and_nan_stays_in_its_vector():
    x = np.random.default_rng(0).standard_normal((1, 4, 16), np.float32)
    x[0, 1], x[0, 2, 3] = 0, np.nan
    actual, _ = _both(x, "tq4")
    assert (actual[0, 1] == 0).all()
    assert np.isnan(actual[0, 2]).all()
    assert np.isfinite(actual[0, [0, 3]]).all()
