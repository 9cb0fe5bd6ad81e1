"""The arithmetic that replaces libm, against float64, over the whole range and at its ends."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import Target

from tqc.schedules import cpu_math

REFERENCE = {"exp": np.exp, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}


def run(function, values):
    n = te.var("n", "int64")
    a = te.placeholder((n,), "float32", "A")
    func = te.create_prim_func([a, te.compute((n,), lambda i: function(a[i].asobject()), "B")]).with_attr(
        "global_symbol", "main"
    )
    target = Target({"kind": "llvm", "mcpu": "x86-64-v3"})
    x = np.asarray(values, np.float32)
    y = tvm.runtime.tensor(np.empty_like(x))
    tvm.compile(tvm.IRModule({"main": func}), target=target)["main"](tvm.runtime.tensor(x), y)
    return y.numpy()


@pytest.mark.parametrize("name", REFERENCE)
def test_relative_error(name):
    x = np.concatenate([np.linspace(-80, 80, 20011), np.geomspace(1e-30, 1, 5001), -np.geomspace(1e-30, 1, 5001)])
    found = run(cpu_math.VECTORISED[name], x)
    expected = REFERENCE[name](x.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=0)


def test_ends_of_the_range_of_exp():
    x = [0, -0.0, 88.7, 88.73, 1000, np.inf, -87.4, -100, -103.9, -104.5, -1e30, -np.inf, np.nan]
    with np.errstate(over="ignore", under="ignore"):
        expected = np.exp(np.asarray(x, np.float32).astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(run(cpu_math.exp, x), expected, rtol=3e-7, atol=1.5e-45)


def test_limits_of_sigmoid_and_tanh():
    x = [-np.inf, -200, 200, np.inf, np.nan]
    np.testing.assert_array_equal(run(cpu_math.sigmoid, x), [0, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(run(cpu_math.tanh, x), [-1, -1, 1, 1, np.nan])
