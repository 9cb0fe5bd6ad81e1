"""RMS norm against NumPy on ragged widths, several ranks and both types."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from levels import needs_level
from tvm.target import Target

from tqc.schedules.cpu_norm import make_rms_norm


def run(func, x, weight, mcpu="x86-64-v4"):
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = tvm.compile(module, target=Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))["main"]
    y = tvm.runtime.tensor(np.full_like(x, np.nan))
    kernel(tvm.runtime.tensor(x), tvm.runtime.tensor(weight), y)
    return y.numpy()


def expected(x, weight, epsilon):
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * weight.astype(np.float64)


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("hidden", [64, 7, 83, 576])
def test_rms_norm_equals_numpy(mcpu, hidden):
    rng = np.random.default_rng(hidden)
    x, weight = rng.standard_normal((2, 3, hidden), np.float32), rng.standard_normal(hidden, np.float32)
    found = run(make_rms_norm(hidden, 1e-5), x, weight, mcpu)
    np.testing.assert_allclose(found, expected(x, weight, 1e-5), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 48), (700, 48), (2, 3, 5, 48)])
def test_any_number_of_leading_axes_and_of_rows(shape):
    rng = np.random.default_rng(len(shape))
    x, weight = rng.standard_normal(shape, np.float32), rng.standard_normal(48, np.float32)
    found = run(make_rms_norm(48, 1e-6, leading=len(shape) - 1), x, weight)
    np.testing.assert_allclose(found, expected(x, weight, 1e-6), rtol=2e-6, atol=1e-6)


def test_half_precision_is_averaged_in_single():
    rng = np.random.default_rng(3)
    x, weight = (200 * rng.standard_normal((1, 4, 96))).astype(np.float16), rng.standard_normal(96).astype(np.float16)
    found = run(make_rms_norm(96, 1e-5, "float16"), x, weight)
    np.testing.assert_allclose(found, expected(x, weight, 1e-5), rtol=2e-3, atol=1e-3)


def test_a_row_of_zeros_gives_zeros_and_a_nan_stays_in_its_row():
    x = np.ones((1, 3, 32), np.float32)
    x[0, 0], x[0, 1, 5] = 0, np.nan
    found = run(make_rms_norm(32, 1e-5), x, np.ones(32, np.float32))
    assert (found[0, 0] == 0).all()
    assert np.isnan(found[0, 1]).all()
    np.testing.assert_allclose(found[0, 2], 1, rtol=1e-5)
