"""Comparisons, with NaN, and choices."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from ptx_snippet import evaluate, kernel, launch

RNG = np.random.default_rng(5)
COMPARED = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
UNSIGNED = {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}


@pytest.mark.parametrize("name", COMPARED)
def test_integers(name: str) -> None:
    edges = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(edges, edges))
    for kind, dtype in (("s32", np.int32), ("u32", np.uint32)):
        found = evaluate(f"setp.{name}.{kind} {{d}}, {{0}}, {{1}};", "pred", a, b)
        np.testing.assert_array_equal(found, COMPARED[name](a.view(dtype), b.view(dtype)))


@pytest.mark.parametrize("name", UNSIGNED)
def test_unsigned_names(name: str) -> None:
    a, b = (RNG.integers(0, 2**32, 64).astype(np.uint32) for _ in range(2))
    found = evaluate(f"setp.{name}.u32 {{d}}, {{0}}, {{1}};", "pred", a, b)
    np.testing.assert_array_equal(found, UNSIGNED[name](a, b))


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("name", [*COMPARED, *(name + "u" for name in COMPARED), "num", "nan"])
def test_floats_and_nan(name: str, kind: str) -> None:
    """Comparisons are false where an operand is NaN, even `ne`; those with u are true there."""
    values = np.array([0, -0.0, 1, -2, np.inf, np.nan], np.float32)
    a, b = (grid.reshape(-1) for grid in np.meshgrid(values, values))
    lost = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        wanted = ~lost if name == "num" else lost
    else:
        wanted = np.where(lost, name[2:] == "u", COMPARED[name[:2]](a, b))
    if kind == "f64":
        a, b = a.astype(np.float64), b.astype(np.float64)
    elif kind != "f32":
        a, b = (
            (x.view(np.uint32) >> 16).astype(np.uint16) if kind == "bf16" else x.astype(np.float16).view(np.uint16)
            for x in (a, b)
        )
    np.testing.assert_array_equal(evaluate(f"setp.{name}.{kind} {{d}}, {{0}}, {{1}};", "pred", a, b), wanted)


def test_subnormal_numbers_are_zeros_with_ftz() -> None:
    a, b = np.array([1e-40], np.float32), np.array([0], np.float32)
    assert evaluate("setp.gt.f32 {d}, {0}, {1};", "pred", a, b).tolist() == [True]
    assert evaluate("setp.gt.ftz.f32 {d}, {0}, {1};", "pred", a, b).tolist() == [False]


@pytest.mark.parametrize(("name", "function"), [("and", operator.and_), ("or", operator.or_), ("xor", operator.xor)])
def test_combined_with_a_predicate_and_its_inverse(name: str, function) -> None:
    a, b = (RNG.integers(0, 4, 128).astype(np.uint32) for _ in range(2))
    c = RNG.integers(0, 2, 128).astype(bool)
    first = evaluate(f"setp.lt.{name}.u32 {{d}}|q1, {{0}}, {{1}}, {{2}};", "pred", a, b, c)
    second = evaluate(f"setp.lt.{name}.u32 q1|{{d}}, {{0}}, {{1}}, {{2}};", "pred", a, b, c)
    negated = evaluate(f"setp.lt.{name}.u32 {{d}}, {{0}}, {{1}}, !{{2}};", "pred", a, b, c)
    np.testing.assert_array_equal(first, function(a < b, c))
    np.testing.assert_array_equal(second, function(a >= b, c))
    np.testing.assert_array_equal(negated, function(a < b, ~c))


def test_pairs_decide_two_predicates() -> None:
    a, b = (RNG.integers(0, 3, (64, 2)).astype(np.float16) for _ in range(2))
    words = [x.view(np.uint32).reshape(-1) for x in (a, b)]
    low = evaluate("setp.lt.f16x2 {d}|q1, {0}, {1};", "pred", *words)
    high = evaluate("setp.lt.f16x2 q1|{d}, {0}, {1};", "pred", *words)
    np.testing.assert_array_equal(low, a[:, 0] < b[:, 0])
    np.testing.assert_array_equal(high, a[:, 1] < b[:, 1])


def test_results_as_numbers() -> None:
    a, b = (RNG.integers(0, 3, 64).astype(np.uint32) for _ in range(2))
    mask = evaluate("set.eq.u32.u32 {d}, {0}, {1};", "b32", a, b)
    np.testing.assert_array_equal(mask, np.where(a == b, 0xFFFFFFFF, 0))
    np.testing.assert_array_equal(evaluate("set.ne.f32.u32 {d}, {0}, {1};", "f32", a, b), (a != b).astype(np.float32))


def test_choices() -> None:
    a, b = (RNG.standard_normal(64).astype(np.float32) for _ in range(2))
    c = RNG.integers(0, 2, 64).astype(bool)
    np.testing.assert_array_equal(evaluate("selp.f32 {d}, {0}, {1}, {2};", "f32", a, b, c), np.where(c, a, b))
    np.testing.assert_array_equal(evaluate("selp.f32 {d}, {0}, {1}, !{2};", "f32", a, b, c), np.where(c, b, a))
    x = np.array([1, -1, 0, -0.0, np.nan], np.float32)
    one, two = np.full(5, 1, np.uint32), np.full(5, 2, np.uint32)
    assert evaluate("slct.u32.f32 {d}, {0}, {1}, {2};", "b32", one, two, x).tolist() == [1, 2, 1, 1, 2]
    y = np.array([5, -5, 0], np.int32).view(np.uint32)
    assert evaluate("slct.u32.s32 {d}, {0}, {1}, {2};", "b32", one[:3], two[:3], y).tolist() == [1, 2, 1]


def test_a_guard_keeps_the_old_value() -> None:
    out = np.zeros(32, np.uint32)
    body = """
    mov.u32 r0, %tid.x; mov.u32 r1, 7; setp.lt.u32 p0, r0, 10;
    @p0 mov.u32 r1, 100;
    @!p0 add.u32 r1, r1, r0;
    ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 4, d0; st.global.u32 [d0], r1;
    """
    launch(kernel(body, "u64"), 1, 32, out)
    assert out.tolist() == [100] * 10 + [7 + i for i in range(10, 32)]
