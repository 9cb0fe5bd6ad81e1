"""Row helpers, in a kernel that takes the maximum of every row."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.script.builder import ir as T

from tqc.schedules.cpu_rows import for_rows, load, scratch, store, total

WIDTH = 16


def row_maximum(dtype):
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        rows = T.int64()
        x_handle, y_handle = T.arg("x", T.handle()), T.arg("y", T.handle())
        x, y = T.match_buffer(x_handle, (rows, WIDTH), dtype), T.match_buffer(y_handle, (rows,), dtype)

        def row(i):
            values = scratch(WIDTH)
            store(values, load(x, [i, 0], WIDTH), [0], WIDTH)
            store(y, total(values, WIDTH, tirx.max), [i], 1)

        for_rows(rows, WIDTH, row)
    return builder.get()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [0, 1, 5000])  # 5000 rows are above the limit from which on threads share them
def test_maximum_of_every_row(dtype, rows):
    kernel = tvm.compile(
        tvm.IRModule({"main": row_maximum(dtype)}), target=Target({"kind": "llvm", "mcpu": "x86-64-v3"})
    )
    x = np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(dtype)
    y = tvm.runtime.tensor(np.full(rows, np.nan, dtype))
    kernel["main"](tvm.runtime.tensor(x), y)
    np.testing.assert_array_equal(y.numpy(), x.max(axis=1))
