"""The packed matmul against NumPy, for every vector width, ragged rows and columns, fp16 and fp32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import tvm
from levels import needs_level
from tvm.target import Target

from tqc.errors import PassError
from tqc.runtime.device import as_dtype
from tqc.schedules.cpu_matmul import MatmulConfig, make_matmul, pack_columns

ROWS = (1, 2, 7, 12, 13, 33)


def compile_for(func, mcpu="x86-64-v4"):
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))["main"]


def run(kernel, *inputs, rows, columns, dtype="float32"):
    result = tvm.runtime.tensor(np.full((rows, columns), np.nan, dtype))
    kernel(*[tvm.runtime.tensor(array) for array in inputs], result)
    return result.numpy()


def test_pack_columns_pads_the_last_block_with_zeros():
    weight = np.arange(3 * 5, dtype=np.float32).reshape(3, 5)
    packed = pack_columns(weight, 4)
    assert packed.shape == (2, 3, 4)
    np.testing.assert_array_equal(packed[0], weight[:, :4])
    np.testing.assert_array_equal(packed[1], np.pad(weight[:, 4:], ((0, 0), (0, 3))))


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("k", "n"), [(40, 64), (33, 83)])
def test_matmul_equals_numpy(mcpu, dtype, k, n):
    rng = np.random.default_rng(k + n)
    config = MatmulConfig.for_target(Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))
    kernel = compile_for(make_matmul(k, n, x_dtype=dtype, w_dtype=dtype, y_dtype=dtype, config=config), mcpu)
    weight = rng.standard_normal((k, n)).astype(dtype)
    for rows in ROWS:
        x = rng.standard_normal((rows, k)).astype(dtype)
        found = run(kernel, x, pack_columns(weight), rows=rows, columns=n, dtype=dtype)
        expected = x.astype(np.float64) @ weight.astype(np.float64)
        tolerance = 1e-5 if dtype == "float32" else 1e-3
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.sqrt(k))


def test_parallel_tasks_cover_many_row_chunks():
    rng = np.random.default_rng(1)
    k, n, rows = 320, 352, 205  # above the serial limit, three chunks of rows, an odd rest
    weight, x = rng.standard_normal((k, n), np.float32), rng.standard_normal((rows, k), np.float32)
    found = run(compile_for(make_matmul(k, n)), x, pack_columns(weight), rows=rows, columns=n)
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight, rtol=1e-4, atol=1e-3)


def test_half_weights_with_single_activations_keep_single_precision():
    rng = np.random.default_rng(2)
    weight, x = rng.standard_normal((48, 32)).astype(np.float16), rng.standard_normal((3, 48), np.float32)
    found = run(compile_for(make_matmul(48, 32, w_dtype="float16")), x, pack_columns(weight), rows=3, columns=32)
    np.testing.assert_allclose(found, x @ weight.astype(np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mcpu", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_brain_float_weights_are_widened_exactly(mcpu):
    rng = np.random.default_rng(8)
    weight, x = rng.standard_normal((48, 40)).astype(ml_dtypes.bfloat16), rng.standard_normal((3, 48), np.float32)
    config = MatmulConfig.for_target(Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))
    kernel = compile_for(make_matmul(48, 40, w_dtype="bfloat16", config=config), mcpu)
    packed = as_dtype(tvm.runtime.tensor(pack_columns(weight).view(np.uint16)), "bfloat16")
    result = tvm.runtime.tensor(np.empty((3, 40), np.float32))
    kernel(tvm.runtime.tensor(x), packed, result)
    np.testing.assert_allclose(result.numpy(), x @ weight.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_bias_and_residual_are_added():
    rng = np.random.default_rng(3)
    weight, x = rng.standard_normal((24, 50), np.float32), rng.standard_normal((5, 24), np.float32)
    bias, residual = rng.standard_normal(50, np.float32), rng.standard_normal((5, 50), np.float32)
    kernel = compile_for(make_matmul(24, 50, bias=True, residual=True))
    found = run(kernel, x, pack_columns(weight), bias, residual, rows=5, columns=50)
    np.testing.assert_allclose(found, x @ weight + bias + residual, rtol=1e-5, atol=1e-5)


def test_a_nan_stays_in_its_row():
    x, weight = np.ones((4, 8), np.float32), np.ones((8, 40), np.float32)
    x[2, 3] = np.nan
    found = run(compile_for(make_matmul(8, 40)), x, pack_columns(weight), rows=4, columns=40)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[[0, 1, 3]], 8)


def test_no_rows_is_allowed():
    found = run(
        compile_for(make_matmul(8, 32)),
        np.ones((0, 8), np.float32),
        np.ones((1, 8, 32), np.float32),
        rows=0,
        columns=32,
    )
    assert found.shape == (0, 32)


def test_a_block_that_is_not_whole_vectors_is_rejected():
    with pytest.raises(PassError, match="multiple of 16"):
        make_matmul(8, 24, block=24)


def test_several_leading_axes():
    rng = np.random.default_rng(4)
    weight, x = rng.standard_normal((24, 40), np.float32), rng.standard_normal((2, 3, 5, 24), np.float32)
    residual = rng.standard_normal((2, 3, 5, 40), np.float32)
    kernel = compile_for(make_matmul(24, 40, residual=True, leading=3))
    y = tvm.runtime.tensor(np.empty((2, 3, 5, 40), np.float32))
    kernel(*[tvm.runtime.tensor(array) for array in (x, pack_columns(weight), residual)], y)
    np.testing.assert_allclose(y.numpy(), x @ weight + residual, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 5, 130])
def test_several_weights_in_one_call(rows):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, 24), np.float32)
    weights = [rng.standard_normal((24, n), np.float32) for n in (64, 40, 7)]
    bias = rng.standard_normal(40, np.float32)
    kernel = compile_for(make_matmul(24, (64, 40, 7), bias=(False, True, False)))
    results = [tvm.runtime.tensor(np.full((rows, n), np.nan, np.float32)) for n in (64, 40, 7)]
    kernel(*[tvm.runtime.tensor(a) for a in (x, *map(pack_columns, weights), bias)], *results)
    for result, weight, added in zip(results, weights, (0, bias, 0), strict=True):
        np.testing.assert_allclose(result.numpy(), x @ weight + added, rtol=1e-5, atol=1e-5)


def test_a_residual_of_several_products_is_rejected():
    with pytest.raises(PassError, match="2 weights"):
        make_matmul(8, (32, 32), residual=True)
