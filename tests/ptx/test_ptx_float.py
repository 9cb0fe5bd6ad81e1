"""Arithmetic of float32 and float64, against exact fractions rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from ptx_exact import rounded
from ptx_snippet import evaluate

RNG = np.random.default_rng(2)
INF, NAN = np.float32(np.inf), np.float32(np.nan)
SPECIAL = np.array([0, -0.0, 1, -1, INF, -INF, NAN, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 0.1, 1 + 2**-23], np.float32)


def floats(count: int, size: int = 400, spread: int = 4) -> list[np.ndarray]:
    """Random float32 numbers of several magnitudes, with many bits and with few."""
    made = []
    for _ in range(count):
        x = RNG.standard_normal(size) * 2.0 ** RNG.integers(-spread, spread, size)
        x[::5] = np.rint(x[::5] * 8) / 8
        made.append(x.astype(np.float32))
    return made


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_sums_and_products_are_rounded_once_in_all_modes(mode: str) -> None:
    a, b = floats(2)
    exact = {"add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "div": lambda x, y: x / y}
    for name, function in exact.items():
        found = evaluate(f"{name}.{mode}.f32 {{d}}, {{0}}, {{1}};", "f32", a, b)
        for x, y, z in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
            if name != "div" or y:
                assert z == rounded(function(Fraction(x), Fraction(y)), mode), (name, x, y)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
def test_fma_rounds_the_exact_sum_of_the_exact_product(mode: str) -> None:
    a, b, c = floats(3, spread=14)
    c[::2] = -(a[::2].astype(np.float64) * b[::2]).astype(np.float32)  # what is left are the low bits of the product
    c[1::7] *= np.float32(2**30)
    # Sums in float64 that lie between two float32 numbers, but for bits that float64 drops.
    a = np.concatenate([a, np.full(4, 1 + 2**-12, np.float32)])
    b = np.concatenate([b, np.array([1 + 2**-12, 1 + 2**-12, -1 - 2**-12, 2**-60], np.float32)])
    c = np.concatenate([c, np.array([2**-70, -(2**-70), 2**-70, 1 + 2**-23], np.float32)])
    found = evaluate(f"fma.{mode}.f32 {{d}}, {{0}}, {{1}}, {{2}};", "f32", a, b, c)
    for x, y, z, w in zip(a.tolist(), b.tolist(), c.tolist(), found.tolist(), strict=True):
        assert w == rounded(Fraction(x) * Fraction(y) + Fraction(z), mode), (x, y, z)


def test_float64_is_rounded_once() -> None:
    a, b, c = (RNG.standard_normal(300) * 2.0 ** RNG.integers(-9, 9, 300) for _ in range(3))
    c[::2] = -(a[::2] * b[::2])
    found = evaluate("fma.rn.f64 {d}, {0}, {1}, {2};", "f64", a, b, c)
    for x, y, z, w in zip(a, b, c, found, strict=True):
        assert w == rounded(Fraction(x) * Fraction(y) + Fraction(z), "rn", 53, -1074)
    for mode in ("rn", "rz", "rm", "rp"):
        for name, function in (("add", lambda x, y: x + y), ("mul", lambda x, y: x * y)):
            found = evaluate(f"{name}.{mode}.f64 {{d}}, {{0}}, {{1}};", "f64", a, b)
            for x, y, z in zip(a, b, found, strict=True):
                assert z == rounded(function(Fraction(x), Fraction(y)), mode, 53, -1074), (name, mode, x, y)


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal, signs of zeros too; NaN where NaN is wanted."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    ok = ~np.isnan(wanted)
    np.testing.assert_array_equal(found[ok].view(np.uint32), wanted.astype(np.float32)[ok].view(np.uint32))


def test_minimum_and_maximum_prefer_numbers_to_nan_and_know_signs_of_zeros() -> None:
    a, b = (grid.reshape(-1) for grid in np.meshgrid(SPECIAL, SPECIAL))
    for name, choose in (("min", min), ("max", max)):
        wanted = []
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            if math.isnan(x) or math.isnan(y):
                wanted.append(y if math.isnan(x) else x)
            elif x == y == 0:
                wanted.append(choose(x, y, key=lambda zero: math.copysign(1, zero)))
            else:
                wanted.append(choose(x, y))
        same(evaluate(f"{name}.f32 {{d}}, {{0}}, {{1}};", "f32", a, b), np.array(wanted, np.float32))
        lost = np.isnan(a) | np.isnan(b)
        with_nan = np.where(lost, NAN, np.array(wanted, np.float32))
        same(evaluate(f"{name}.NaN.f32 {{d}}, {{0}}, {{1}};", "f32", a, b), with_nan)


def test_signs_are_changed_in_nan_too() -> None:
    bits = np.array([0x7FC00001, 0xFFC00002, 0x80000000, 0x3F800000], np.uint32)
    x = bits.view(np.float32)
    assert evaluate("neg.f32 {d}, {0};", "f32", x).view(np.uint32).tolist() == (bits ^ 0x80000000).tolist()
    assert evaluate("abs.f32 {d}, {0};", "f32", x).view(np.uint32).tolist() == (bits & 0x7FFFFFFF).tolist()
    y = np.array([-2, 3, -4, 5], np.float32)
    np.testing.assert_array_equal(evaluate("copysign.f32 {d}, {0}, {1};", "f32", y, np.abs(y)), y)


def test_flushing_and_saturation() -> None:
    tiny = np.array([1e-40, -1e-40, 2e-38, -2e-38, 1, 0.5, -3, NAN, INF], np.float32)
    one = np.ones_like(tiny)
    kept = np.array([0, -0.0, 2e-38, -2e-38, 1, 0.5, -3, NAN, INF], np.float32)
    same(evaluate("mul.ftz.f32 {d}, {0}, {1};", "f32", tiny, one), kept)
    same(evaluate("mul.f32 {d}, {0}, {1};", "f32", tiny, one), tiny)
    same(
        evaluate("add.sat.f32 {d}, {0}, {1};", "f32", tiny, one * 0),
        np.array([1e-40, 0, 2e-38, 0, 1, 0.5, 0, 0, 1], np.float32),
    )
    half = np.full_like(tiny, 2**-20)
    same(evaluate("mul.ftz.f32 {d}, {0}, {1};", "f32", np.full_like(tiny, 1e-36), half), one * 0)


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rcp.rn.f32": lambda x: 1 / x,
    "rcp.approx.ftz.f32": lambda x: 1 / x,
    "sqrt.rn.f32": np.sqrt,
    "sqrt.approx.f32": np.sqrt,
    "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x),
    "ex2.approx.f32": np.exp2,
    "ex2.approx.ftz.f32": np.exp2,
    "lg2.approx.f32": np.log2,
    "sin.approx.f32": np.sin,
    "cos.approx.f32": np.cos,
    "tanh.approx.f32": np.tanh,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_the_rounded_value(name: str) -> None:
    x = np.abs(floats(1)[0]) + np.float32(1e-3)
    wanted = FUNCTIONS[name](x.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(f"{name} {{d}}, {{0}};", "f32", x), wanted)


def test_functions_at_the_ends() -> None:
    x = np.array([0, -0.0, INF, -INF, NAN, -1], np.float32)
    same(evaluate("ex2.approx.f32 {d}, {0};", "f32", x), np.array([1, 1, INF, 0, NAN, 0.5], np.float32))
    same(evaluate("rcp.rn.f32 {d}, {0};", "f32", x), np.array([INF, -INF, 0, -0.0, NAN, -1], np.float32))
    same(evaluate("lg2.approx.f32 {d}, {0};", "f32", x), np.array([-INF, -INF, INF, NAN, NAN, NAN], np.float32))
    same(evaluate("rsqrt.approx.f32 {d}, {0};", "f32", x), np.array([INF, -INF, 0, NAN, NAN, NAN], np.float32))


@pytest.mark.parametrize(
    ("what", "wanted"),
    [
        ("finite", [1, 1, 1, 1, 1, 0, 0]),
        ("infinite", [0, 0, 0, 0, 0, 1, 0]),
        ("number", [1, 1, 1, 1, 1, 1, 0]),
        ("notanumber", [0, 0, 0, 0, 0, 0, 1]),
        ("normal", [1, 1, 1, 0, 1, 0, 0]),
        ("subnormal", [0, 0, 0, 1, 0, 0, 0]),
    ],
)
def test_kinds_of_numbers(what: str, wanted: list[int]) -> None:
    x = np.array([0, -0.0, 1, 1e-40, 2e-38, -INF, NAN], np.float32)
    assert evaluate(f"testp.{what}.f32 {{d}}, {{0}};", "pred", x).tolist() == [bool(w) for w in wanted]
