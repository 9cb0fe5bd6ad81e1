from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from cpu_driver import run_vectors
from tvm.script.ir_builder import tirx as T

from tqc.schedules.cpu_simd import i64, let

ISAS = ["avx512", "avx2", "portable"]


def each_vector(emit):
    """A kernel that calls `emit(simd, i, source, target)` for the vector at every i."""

    def kernel(simd, source, target):
        with T.serial(i64(int(source.shape[0]) // simd.lanes)) as c:
            emit(simd, let(c * simd.lanes), source, target)

    return kernel


@pytest.mark.parametrize("isa", ISAS)
def test_exp2(isa: str) -> None:
    x = np.concatenate([np.linspace(-126, 0, 4090), [-1e30, np.nan, -200, -127, -0.5, 0]]).astype(np.float32)
    y = np.zeros_like(x)
    run_vectors(isa, each_vector(lambda simd, i, a, b: simd.store(b, simd.exp2(simd.load(a, i)), i)), x, y)
    assert np.isnan(y[4091])
    x[4091] = y[4091] = 0
    y[4091] = 1
    np.testing.assert_allclose(y, np.exp2(np.maximum(x, -126).astype(np.float64)), rtol=6e-7)


@pytest.mark.parametrize("isa", ISAS)
def test_soft_cap(isa: str) -> None:
    x = np.linspace(-40, 40, 800).astype(np.float32)
    x[0] = np.nan
    y = np.zeros_like(x)
    scaled = (2 * np.log2(np.e) * x).astype(np.float32)
    run_vectors(
        isa, each_vector(lambda simd, i, a, b: simd.store(b, simd.soft_cap(simd.load(a, i), 7.0), i)), scaled, y
    )
    assert np.isnan(y[0])
    np.testing.assert_allclose(y[1:], 7 * np.tanh(x[1:].astype(np.float64)), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_half_precision_both_ways(isa: str) -> None:
    half = np.arange(65536, dtype=np.uint16).view(np.float16)
    single = np.zeros(65536, np.float32)
    copy = each_vector(lambda simd, i, a, b: simd.store(b, simd.load(a, i), i))
    run_vectors(isa, copy, half, single)
    np.testing.assert_array_equal(single, half.astype(np.float32))
    single[np.isnan(single)] = np.nan  # quiet ones, which numpy converts without a warning

    rng = np.random.default_rng(0)
    between = np.nextafter(single[:31744:7], np.float32(1e9)) * np.float32(1.0002)
    values = np.concatenate(
        [single, between, -between, rng.standard_normal(4096, np.float32) * 1e-6, [65519, 65520, 1e30]]
    )
    values = np.resize(values, -(-len(values) // 16) * 16).astype(np.float32)
    rounded = np.zeros(len(values), np.float16)
    run_vectors(isa, copy, values, rounded)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded, values.astype(np.float16))


@pytest.mark.parametrize("isa", ISAS)
def test_bfloat16_both_ways(isa: str) -> None:
    brain = np.arange(65536, dtype=np.uint16).view(ml_dtypes.bfloat16)
    single = np.zeros(65536, np.float32)
    copy = each_vector(lambda simd, i, a, b: simd.store(b, simd.load(a, i), i))
    run_vectors(isa, copy, brain, single)
    np.testing.assert_array_equal(single, brain.astype(np.float32))

    single[np.isnan(single)] = np.nan  # quiet ones, which numpy converts without a warning
    values = (single.view(np.uint32) + np.resize(np.array([0, 0x7FFF, 0x8000, 0x8001], np.uint32), 65536)).view("f4")
    rounded = np.zeros(65536, ml_dtypes.bfloat16)
    run_vectors(isa, copy, values, rounded)
    np.testing.assert_array_equal(rounded.astype(np.float32), values.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("isa", ISAS)
def test_reductions(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    y = np.zeros(2, np.float32)

    def kernel(simd, source, target):
        vector = let(simd.load(source, i64(0)))
        T.buffer_store(target, simd.largest(vector), [0])
        T.buffer_store(target, simd.total(vector), [1])

    run_vectors(isa, kernel, x, y)
    lanes = {"avx512": 16, "avx2": 8, "portable": 4}[isa]
    np.testing.assert_allclose(y, [x[:lanes].max(), x[:lanes].sum()], rtol=1e-5)


def test_a_comparison_cannot_be_held() -> None:
    def kernel(simd, source):
        with pytest.raises(TypeError, match="comparison"):
            let(simd.load(source, i64(0)) < simd.splat(0.0))

    run_vectors("avx512", kernel, np.zeros(16, np.float32))
