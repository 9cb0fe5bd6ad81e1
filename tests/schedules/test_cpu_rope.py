"""Rotary embedding against NumPy, at positions where a float32 reduction of the angle would fail."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from levels import needs_level
from tvm.target import Target

from tqc.schedules.cpu_rope import make_rope

RNG = np.random.default_rng(0)


def run(func, x, positions, inv_freq, mcpu="x86-64-v4"):
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = tvm.compile(module, target=Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))["main"]
    y = tvm.runtime.tensor(np.full_like(x, np.nan))
    kernel(*[tvm.runtime.tensor(a) for a in (x, positions, inv_freq)], y)
    return y.numpy()


def expected(x, positions, inv_freq):
    angle = (positions.astype(np.float32)[..., None] * inv_freq).astype(np.float64)[:, None]
    low, high = np.split(x.astype(np.float64), 2, axis=-1)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def frequencies(head_dim, base=10000.0):
    return (base ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("head_dim", [64, 48, 10])
def test_rope_equals_numpy(mcpu, head_dim):
    x = RNG.standard_normal((2, 3, 5, head_dim), np.float32)
    positions = np.array([[0, 1, 2, 3, 4], [7, 131071, 999_999, 1_000_000, 16_777_213]])
    inv_freq = frequencies(head_dim)
    found = run(make_rope(3, head_dim), x, positions, inv_freq, mcpu)
    np.testing.assert_allclose(found, expected(x, positions, inv_freq), rtol=0, atol=2e-6)


def test_one_token_and_many_tokens_agree():
    x, inv_freq = RNG.standard_normal((1, 2, 300, 64), np.float32), frequencies(64)
    positions = np.arange(5, 305)[None]
    func = make_rope(2, 64)
    many = run(func, x, positions, inv_freq)  # 38400 elements: on all threads
    np.testing.assert_allclose(many, expected(x, positions, inv_freq), rtol=0, atol=2e-6)
    one = run(func, np.ascontiguousarray(x[:, :, 7:8]), positions[:, 7:8], inv_freq)
    np.testing.assert_array_equal(one, many[:, :, 7:8])


def test_scaling_and_half_precision():
    x, positions, inv_freq = (
        RNG.standard_normal((1, 2, 3, 32)).astype(np.float16),
        np.array([[9, 10, 11]]),
        frequencies(32),
    )
    found = run(make_rope(2, 32, "float16", scaling=1.25), x, positions, inv_freq)
    np.testing.assert_allclose(found, 1.25 * expected(x, positions, inv_freq), rtol=2e-3, atol=2e-3)
