"""The block-quantized matmul against NumPy: every width, bits, zero points, ragged rows, columns and blocks."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import tvm
from levels import needs_level
from nbits_weights import FORMATS, make_weight
from run_op import tensor
from tvm.target import Target

from tqc.codec import nbits
from tqc.errors import PassError
from tqc.schedules.cpu_nbits import make_matmul_nbits, nbits_config, pack_blocks, pack_words
from tqc.schedules.cpu_tiles import MatmulConfig

RNG = np.random.default_rng(0)
SMALL = MatmulConfig(lanes=16, registers=8, rows=3)  # compiles fast


def compile_for(func, mcpu="x86-64-v4"):
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=Target({"kind": "llvm", "mcpu": needs_level(mcpu)}))["main"]


def laid_out(weight):
    """The arrays of a weight as the kernel reads them."""
    bits, (packed, scales, *points) = weight.options["bits"], weight.arrays.values()
    found = [pack_words(packed, bits), pack_blocks(scales)]
    if points:
        stored = points[0]
        if stored.dtype == np.uint8:
            stored = nbits.unpack(stored, bits)[:, : scales.shape[1]]
        found.append(pack_blocks(stored))
    return found


def options_of(weight):
    points = weight.arrays.get("zero_points")
    dtype = {"points": str(points.dtype)} if points is not None else {}
    return {**weight.options, **dtype, "scale_dtype": str(weight.arrays["scales"].dtype)}


def run(kernel, *inputs, rows, columns, dtype="float32"):
    result = tvm.runtime.tensor(np.full((rows, columns), np.nan, dtype))
    kernel(*map(tensor, inputs), result)
    return result.numpy()


def test_words_hold_neighbours_along_k_column_beside_column():
    packed = np.arange(2 * 16, dtype=np.uint8).reshape(2, 2, 8)
    words = pack_words(packed, 4, 2)
    assert words.shape == (1, 4, 8)
    np.testing.assert_array_equal(words[0, 0] ^ 0x88, [0, 1, 2, 3, 16, 17, 18, 19])


def test_missing_columns_are_filled_up():
    assert pack_words(np.ones((33, 2, 16), np.uint8), 8).shape == (2, 8, 128)
    blocks = pack_blocks(np.ones((33, 2), np.float32))
    assert blocks.shape == (2, 2, 32)
    assert blocks.sum() == 66


LEVELS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"]


def config_of(mcpu, **changes):
    return replace(nbits_config(Target({"kind": "llvm", "mcpu": needs_level(mcpu)})), **changes)


@pytest.mark.parametrize("mcpu", LEVELS)
@pytest.mark.parametrize("form", FORMATS)
def test_product_equals_numpy(mcpu, form):
    k, n = 83, 41
    weight = make_weight(n, k, **form)
    kernel = compile_for(make_matmul_nbits(k, n, **options_of(weight), config=config_of(mcpu, rows=2)), mcpu)
    for rows in (1, 5):
        x = RNG.standard_normal((rows, k), np.float32)
        found = run(kernel, x, *laid_out(weight), rows=rows, columns=n)
        np.testing.assert_allclose(found, x.astype(np.float64) @ weight.dense.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mcpu", LEVELS)
def test_every_row_tile(mcpu):
    weight = make_weight(40, 64, bits=4, block=32, points="uint8")
    kernel = compile_for(make_matmul_nbits(64, 40, **options_of(weight), config=config_of(mcpu)), mcpu)
    for rows in (1, 2, 4, 8, 15, 27):
        x = RNG.standard_normal((rows, 64), np.float32)
        found = run(kernel, x, *laid_out(weight), rows=rows, columns=40)
        np.testing.assert_allclose(found, x.astype(np.float64) @ weight.dense.T, rtol=1e-5, atol=1e-4)


def test_the_tile_fits_the_registers():
    for mcpu, registers in zip(LEVELS, (16, 16, 32), strict=True):
        config = config_of(mcpu)
        for rows in range(1, config.rows + 1):
            cells = rows * config.columns(rows, 32) // config.lanes
            assert 2 * cells + 2 <= registers or config.columns(rows, 32) == config.lanes


@pytest.mark.parametrize("x_dtype", ["float32", "float16"])
def test_half_precision_is_only_that_of_what_is_stored(x_dtype):
    weight = make_weight(32, 64, bits=4, block=32, points="float", dtype="float16")
    x = RNG.standard_normal((3, 64)).astype(x_dtype)
    kernel = compile_for(
        make_matmul_nbits(64, 32, **options_of(weight), x_dtype=x_dtype, y_dtype="float16", config=SMALL)
    )
    found = run(kernel, x, *laid_out(weight), rows=3, columns=32, dtype="float16")
    np.testing.assert_allclose(found, x.astype(np.float32) @ weight.dense.T, rtol=1e-3, atol=1e-3)


def test_scales_and_zero_points_in_bfloat16():
    weight = make_weight(32, 64, bits=4, block=32, points="float", dtype=ml_dtypes.bfloat16)
    x = RNG.standard_normal((3, 64), np.float32)
    kernel = compile_for(make_matmul_nbits(64, 32, **options_of(weight), config=SMALL))
    found = run(kernel, x, *laid_out(weight), rows=3, columns=32)
    np.testing.assert_allclose(found, x @ weight.dense.T, rtol=1e-5, atol=1e-4)


def test_many_rows_and_columns_in_parallel():
    weight = make_weight(352, 320, bits=4, block=64)
    x = RNG.standard_normal((205, 320), np.float32)
    kernel = compile_for(make_matmul_nbits(320, 352, bits=4, block=64))
    found = run(kernel, x, *laid_out(weight), rows=205, columns=352)
    np.testing.assert_allclose(found, x.astype(np.float64) @ weight.dense.T, rtol=1e-4, atol=1e-3)


def test_several_weights_with_bias_and_leading_axes():
    weights = [make_weight(n, 40, bits=4, block=16, seed=n) for n in (64, 7)]
    x, bias = RNG.standard_normal((2, 3, 40), np.float32), RNG.standard_normal(7, np.float32)
    kernel = compile_for(make_matmul_nbits(40, (64, 7), bits=4, block=16, bias=(False, True), leading=2, config=SMALL))
    arrays = [array for pair in zip(*map(laid_out, weights), strict=True) for array in pair]
    results = [tvm.runtime.tensor(np.full((2, 3, n), np.nan, np.float32)) for n in (64, 7)]
    kernel(*[tvm.runtime.tensor(a) for a in (x, *arrays, bias)], *results)
    for result, weight, added in zip(results, weights, (0, bias), strict=True):
        np.testing.assert_allclose(result.numpy(), x @ weight.dense.T + added, rtol=1e-4, atol=1e-4)


def test_a_residual_is_added():
    weight = make_weight(50, 32, bits=8, block=32)
    x, residual = RNG.standard_normal((5, 32), np.float32), RNG.standard_normal((5, 50), np.float32)
    kernel = compile_for(make_matmul_nbits(32, 50, bits=8, block=32, residual=True, config=SMALL))
    found = run(kernel, x, *laid_out(weight), residual, rows=5, columns=50)
    np.testing.assert_allclose(found, x @ weight.dense.T + residual, rtol=1e-4, atol=1e-4)


def test_a_nan_stays_in_its_row_and_its_column():
    weight = make_weight(40, 64, bits=4, block=32)
    x = RNG.standard_normal((3, 64), np.float32)
    x[1, 3] = np.nan
    weight.arrays["scales"][7, 1] = np.inf
    kernel = compile_for(make_matmul_nbits(64, 40, bits=4, block=32, config=SMALL))
    found = run(kernel, x, *laid_out(weight), rows=3, columns=40)
    assert np.isnan(found[1]).all()
    assert (~np.isfinite(found[[0, 2]])).sum() == 2


@pytest.mark.parametrize("wrong", [{"bits": 2}, {"block": 48}])
def test_other_formats_are_rejected(wrong):
    with pytest.raises(PassError, match="Unsupported block quantization"):
        make_matmul_nbits(64, 32, **({"bits": 4, "block": 32} | wrong))
