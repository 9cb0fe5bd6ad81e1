"""Heads times the matrix of their KV head against NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tvm
from levels import needs_level
from tvm.target import Target

from tqc.schedules.cpu_basis import make_basis
from tqc.schedules.cpu_tiles import MatmulConfig

RNG = np.random.default_rng(0)


@cache
def compiled(heads, kv_heads, dim, dtype, mcpu):
    target = Target({"kind": "llvm", "mcpu": needs_level(mcpu)})
    func = make_basis(heads, kv_heads, dim, dtype, config=MatmulConfig.for_target(target))
    return tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target=target)["main"]


def run(heads, x, matrix, mcpu="x86-64-v3"):
    kernel = compiled(heads, len(matrix), x.shape[3], str(x.dtype), mcpu)
    y = tvm.runtime.tensor(np.full_like(x, np.nan))
    kernel(tvm.runtime.tensor(x), tvm.runtime.tensor(matrix), y)
    return y.numpy()


def expected(x, matrix):
    group = x.shape[1] // len(matrix)
    return np.stack([x[:, h].astype("float64") @ matrix[h // group] for h in range(x.shape[1])], axis=1)


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 64), (2, 2, 80)])
def test_equals_numpy(mcpu, heads, kv_heads, dim):
    matrix = RNG.standard_normal((kv_heads, dim, dim), np.float32)
    for batch, new in ((1, 1), (2, 5)):
        x = RNG.standard_normal((batch, heads, new, dim), np.float32)
        np.testing.assert_allclose(run(heads, x, matrix, mcpu), expected(x, matrix), atol=1e-3)


def test_many_tokens_on_all_threads():
    x, matrix = RNG.standard_normal((1, 3, 67, 64), np.float32), RNG.standard_normal((1, 64, 64), np.float32)
    np.testing.assert_allclose(run(3, x, matrix), expected(x, matrix), atol=1e-3)


def test_half_precision():
    x = RNG.standard_normal((1, 2, 3, 16)).astype("float16")
    matrix = RNG.standard_normal((1, 16, 16), np.float32)
    np.testing.assert_allclose(run(2, x, matrix), expected(x, matrix), atol=2e-2)


def test_no_tokens():
    x = np.zeros((1, 2, 0, 16), np.float32)
    assert run(2, x, np.zeros((1, 16, 16), np.float32)).shape == (1, 2, 0, 16)
