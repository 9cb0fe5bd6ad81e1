"""Arithmetic of float16 and bfloat16, against exact fractions rounded once to their few bits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_exact import rounded
from ptx_snippet import evaluate

RNG = np.random.default_rng(3)
DTYPES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
BITS = {"f16": (11, -24), "bf16": (8, -133)}


def halves(kind: str, count: int = 400) -> np.ndarray:
    x = RNG.standard_normal(count) * 2.0 ** RNG.integers(-5, 5, count)
    return x.astype(DTYPES[kind])


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint16)


FUNCTIONS: dict[str, tuple[int, Callable[..., Fraction]]] = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "fma.rn": (3, lambda a, b, c: a * b + c),
    "min": (2, min),
    "max": (2, max),
}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_are_rounded_once(name: str, kind: str) -> None:
    count, function = FUNCTIONS[name]
    arrays = [halves(kind) for _ in range(count)]
    if count == 3:
        arrays[2][::2] = -(arrays[0].astype(np.float32) * arrays[1].astype(np.float32))[::2].astype(DTYPES[kind])
    names = ", ".join(f"{{{i}}}" for i in range(count))
    found = evaluate(f"{name}.{kind} {{d}}, {names};", "b16", *map(bits, arrays)).view(DTYPES[kind]).astype(np.float64)
    exact = [[Fraction(float(x)) for x in array] for array in arrays]
    for i, numbers in enumerate(zip(*exact, strict=True)):
        assert found[i] == rounded(function(*numbers), "rn", *BITS[kind]), numbers


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("name", ["add", "mul", "fma.rn", "min", "max", "neg", "abs"])
def test_pairs_are_two_of_them(name: str, kind: str) -> None:
    count = {"fma.rn": 3, "neg": 1, "abs": 1}.get(name, 2)
    arrays = [bits(halves(kind, 256)) for _ in range(count)]
    names = ", ".join(f"{{{i}}}" for i in range(count))
    single = evaluate(f"{name}.{kind} {{d}}, {names};", "b16", *arrays)
    double = evaluate(f"{name}.{kind}x2 {{d}}, {names};", "b32", *[a.view(np.uint32) for a in arrays])
    np.testing.assert_array_equal(double.view(np.uint16), single)


def test_nan_saturation_and_negative_numbers() -> None:
    a = np.array([np.nan, 1, -2, 0.25, 3], np.float16)
    b = np.array([1, np.nan, 1, 0.5, -1], np.float16)

    def run(name: str) -> list[float]:
        return evaluate(f"{name} {{d}}, {{0}}, {{1}};", "b16", bits(a), bits(b)).view(np.float16).tolist()

    assert run("min.f16") == [1, 1, -2, 0.25, -1]
    np.testing.assert_array_equal(run("max.NaN.f16"), [np.nan, np.nan, 1, 0.5, 3])
    assert run("add.sat.f16") == [0, 0, 0, 0.75, 1]
    one = bits(np.ones_like(a))
    found = evaluate("fma.rn.relu.f16 {d}, {0}, {1}, {2};", "b16", bits(a), one, bits(b)).view(np.float16)
    np.testing.assert_array_equal(found, [np.nan, np.nan, 0, 0.75, 2])


def test_every_nan_result_is_the_same_one() -> None:
    a = np.array([0x7E01, 0xFE00], np.uint16)
    assert evaluate("add.f16 {d}, {0}, {0};", "b16", a).tolist() == [0x7FFF, 0x7FFF]
    assert evaluate("mul.bf16x2 {d}, {0}, {0};", "b32", np.array([0x7FC1FF81], np.uint32)).tolist() == [0x7FFF7FFF]


@pytest.mark.parametrize("kind", DTYPES)
def test_powers_of_two(kind: str) -> None:
    x = halves(kind)
    name = "ex2.approx.f16" if kind == "f16" else "ex2.approx.ftz.bf16"
    found = evaluate(f"{name} {{d}}, {{0}};", "b16", bits(x)).view(DTYPES[kind])
    with np.errstate(over="ignore"):
        wanted = np.exp2(x.astype(np.float64)).astype(np.float32).astype(DTYPES[kind])
    np.testing.assert_array_equal(bits(found), bits(wanted))


def test_subnormal_halves_are_flushed_only_where_asked() -> None:
    a = np.array([2**-24, 2**-14, -(2**-20)], np.float16)
    one = np.ones_like(a)
    kept = evaluate("mul.f16 {d}, {0}, {1};", "b16", bits(a), bits(one)).view(np.float16)
    np.testing.assert_array_equal(kept, a)
    flushed = evaluate("mul.ftz.f16 {d}, {0}, {1};", "b16", bits(a), bits(one)).view(np.float16)
    assert flushed.tolist() == [0, 2**-14, 0]
    assert np.signbit(flushed).tolist() == [False, False, True]
