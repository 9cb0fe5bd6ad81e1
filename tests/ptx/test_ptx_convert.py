"""cvt: rounding, saturation, extension."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from ptx_exact import rounded
from ptx_snippet import evaluate

RNG = np.random.default_rng(4)
ROUND = {
    "rni": lambda x: int(np.rint(x)),
    "rzi": math.trunc,
    "rmi": math.floor,
    "rpi": math.ceil,
}


def ranged(value: int, kind: str) -> int:
    bits = int(kind[1:])
    low, high = (0, (1 << bits) - 1) if kind[0] == "u" else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return max(low, min(high, value))


@pytest.mark.parametrize("mode", ROUND)
@pytest.mark.parametrize("kind", ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"])
@pytest.mark.parametrize("source", ["f32", "f64"])
def test_floats_become_integers_within_range(mode: str, kind: str, source: str) -> None:
    dtype = np.float32 if source == "f32" else np.float64
    edges = [
        0,
        -0.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        127.5,
        128,
        -128.5,
        255.5,
        65535.5,
        2**31,
        -(2**31),
        2**32,
        2**63,
        1e30,
    ]
    x = np.concatenate([edges, np.negative(edges), RNG.standard_normal(100) * 10.0 ** RNG.integers(0, 12, 100)])
    x = np.concatenate([x, [np.inf, -np.inf, np.nan]]).astype(dtype)
    bits = max(16, int(kind[1:]))
    found = evaluate(f"cvt.{mode}.{kind}.{source} {{d}}, {{0}};", f"b{bits}", x)
    for value, got in zip(x.tolist(), found.tolist(), strict=True):
        if math.isnan(value):
            wanted = 0
        elif math.isinf(value):
            wanted = ranged(10**30 if value > 0 else -(10**30), kind)
        else:
            wanted = ranged(ROUND[mode](value), kind)
        assert got == wanted % (1 << bits), (value, wanted)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("kind", ["u32", "s32", "u16", "s8"])
def test_integers_become_floats(mode: str, kind: str) -> None:
    bits = int(kind[1:])
    x = np.concatenate([RNG.integers(0, 1 << bits, 200), [0, 1, (1 << bits) - 1, 1 << (bits - 1)]]).astype(
        f"u{bits // 8}"
    )
    view = x.view(f"i{bits // 8}") if kind[0] == "s" else x
    found = evaluate(f"cvt.{mode}.f32.{kind} {{d}}, {{0}};", "f32", view if bits == 8 else x)
    for number, value in zip(view.tolist(), found.tolist(), strict=True):
        assert value == rounded(Fraction(number), mode), number


def test_wide_integers_become_floats() -> None:
    x = np.concatenate([RNG.integers(0, 2**64 - 1, 200, dtype=np.uint64), [2**53 + 1, 2**63, 2**24 + 1]]).astype(
        np.uint64
    )
    np.testing.assert_array_equal(
        evaluate("cvt.rn.f32.u64 {d}, {0};", "f32", x), [rounded(Fraction(n), "rn") for n in x.tolist()]
    )
    y = x.view(np.int64)
    found = evaluate("cvt.rn.f64.s64 {d}, {0};", "f64", x)
    np.testing.assert_array_equal(found, [rounded(Fraction(n), "rn", 53) for n in y.tolist()])


@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_float32_to_16_bits(mode: str, kind: str) -> None:
    few = {"f16": (11, -24), "bf16": (8, -133)}[kind]
    x = (RNG.standard_normal(500) * 2.0 ** RNG.integers(-18, 8, 500)).astype(np.float32)
    x[:4] = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8]  # ties of both
    dtype = np.dtype(np.float16 if kind == "f16" else ml_dtypes.bfloat16)
    found = evaluate(f"cvt.{mode}.{kind}.f32 {{d}}, {{0}};", "b16", x).view(dtype).astype(np.float64)
    for value, got in zip(x.tolist(), found.tolist(), strict=True):
        assert got == rounded(Fraction(value), mode, *few), value
    ends = np.array([70000, -70000, 3.4e38, np.inf, np.nan], np.float32)
    bits = evaluate(f"cvt.{mode}.{kind}.f32 {{d}}, {{0}};", "b16", ends).tolist()
    wanted = {
        ("f16", "rn"): [0x7C00, 0xFC00, 0x7C00, 0x7C00, 0x7FFF],
        ("f16", "rz"): [0x7BFF, 0xFBFF, 0x7BFF, 0x7C00, 0x7FFF],
        ("bf16", "rn"): [0x4789, 0xC789, 0x7F80, 0x7F80, 0x7FFF],
        ("bf16", "rz"): [0x4788, 0xC788, 0x7F7F, 0x7F80, 0x7FFF],
    }[kind, mode]
    assert bits == wanted


def test_from_float64_there_is_one_rounding() -> None:
    x = np.array([1 + 2**-11 + 2**-40, 1 + 2**-11, 1 + 2**-11 - 2**-40, 1 + 2**-24 + 2**-50])
    found = evaluate("cvt.rn.f16.f64 {d}, {0};", "b16", x).view(np.float16)
    assert found.tolist() == [1 + 2**-10, 1, 1, 1]
    assert evaluate("cvt.rn.f32.f64 {d}, {0};", "f32", x[3:]).tolist() == [1 + 2**-23]


def test_16_bits_to_float32_is_exact() -> None:
    bits = np.arange(0, 2**16, 3).astype(np.uint16)
    for kind, dtype in (("f16", np.float16), ("bf16", ml_dtypes.bfloat16)):
        found = evaluate(f"cvt.f32.{kind} {{d}}, {{0}};", "f32", bits)
        np.testing.assert_array_equal(found, bits.view(dtype).astype(np.float32))


def test_flush_and_saturate() -> None:
    x = np.array([1e-40, 0.3, 2, -1, np.nan], np.float32)
    np.testing.assert_array_equal(evaluate("cvt.ftz.f32.f32 {d}, {0};", "f32", x), [0, np.float32(0.3), 2, -1, np.nan])
    found = evaluate("cvt.sat.f32.f32 {d}, {0};", "f32", x)
    np.testing.assert_array_equal(found, np.array([1e-40, 0.3, 1, 0, 0], np.float32))
    np.testing.assert_array_equal(evaluate("cvt.rni.f32.f32 {d}, {0};", "f32", x * 5)[:4], [0, 2, 10, -5])


def test_integers_are_extended_and_cut() -> None:
    x = np.array([0x80, 0x7F, 0xFF80, 0x1234, 0xFFFF], np.uint16)
    assert evaluate("cvt.s32.s8 {d}, {0};", "b32", x).view(np.int32).tolist() == [-128, 127, -128, 52, -1]
    assert evaluate("cvt.u32.u8 {d}, {0};", "b32", x).tolist() == [128, 127, 128, 52, 255]
    assert evaluate("cvt.s64.s16 {d}, {0};", "b64", x).view(np.int64).tolist() == [128, 127, -128, 0x1234, -1]
    assert evaluate("cvt.u16.s8 {d}, {0};", "b16", x).tolist() == [0xFF80, 0x7F, 0xFF80, 0x34, 0xFFFF]
    y = np.array([0xFFFFFFFF, 0x80000000, 300], np.uint32)
    assert evaluate("cvt.s64.s32 {d}, {0};", "b64", y).view(np.int64).tolist() == [-1, -(2**31), 300]
    assert evaluate("cvt.u64.u32 {d}, {0};", "b64", y).tolist() == [2**32 - 1, 2**31, 300]
    assert evaluate("cvt.u16.u32 {d}, {0};", "b16", y).tolist() == [0xFFFF, 0, 300]
    assert evaluate("cvt.sat.s8.s32 {d}, {0};", "b16", y).view(np.int16).tolist() == [-1, -128, 127]
    assert evaluate("cvt.sat.u8.s32 {d}, {0};", "b16", y).tolist() == [0, 0, 255]


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2"])
def test_pairs_of_floats_have_the_first_operand_above(kind: str) -> None:
    a, b = ((RNG.standard_normal(100) * 100).astype(np.float32) for _ in range(2))
    dtype = np.dtype(np.float16 if kind == "f16x2" else ml_dtypes.bfloat16)
    found = evaluate(f"cvt.rn.{kind}.f32 {{d}}, {{0}}, {{1}};", "b32", a, b).view(np.uint16).reshape(-1, 2)
    np.testing.assert_array_equal(found[:, 1], a.astype(dtype).view(np.uint16))
    np.testing.assert_array_equal(found[:, 0], b.astype(dtype).view(np.uint16))
    cut = evaluate(f"cvt.rn.relu.{kind}.f32 {{d}}, {{0}}, {{1}};", "b32", a, b).view(np.uint16).reshape(-1, 2)
    np.testing.assert_array_equal(cut[:, 1], np.maximum(a, 0).astype(dtype).view(np.uint16))


@pytest.mark.parametrize(
    ("kind", "dtype", "most"), [("e4m3x2", ml_dtypes.float8_e4m3fn, 448), ("e5m2x2", ml_dtypes.float8_e5m2, 57344)]
)
def test_floats_of_8_bits_are_saturated(kind: str, dtype: type, most: float) -> None:
    a = (RNG.standard_normal(200) * 2.0 ** RNG.integers(-12, 12, 200)).astype(np.float32)
    a[:5] = [1e9, -1e9, np.inf, np.nan, 0]
    b = a[::-1].copy()
    found = evaluate(f"cvt.rn.satfinite.{kind}.f32 {{d}}, {{0}}, {{1}};", "b16", a, b).view(np.uint8).reshape(-1, 2)

    def wanted(x: np.ndarray) -> np.ndarray:
        bits = np.clip(x, -most, most).astype(dtype).view(np.uint8)
        return np.where(np.isnan(x), 0x7F, bits)

    np.testing.assert_array_equal(found[:, 1], wanted(a))
    np.testing.assert_array_equal(found[:, 0], wanted(b))
    codes = np.arange(0, 2**16, 7).astype(np.uint16)
    back = evaluate(f"cvt.rn.f16x2.{kind} {{d}}, {{0}};", "b32", codes).view(np.float16)
    np.testing.assert_array_equal(back, codes.view(np.uint8).view(dtype).astype(np.float16))
    again = evaluate(f"cvt.rn.satfinite.{kind}.f16x2 {{d}}, {{0}};", "b16", back.view(np.uint32)).view(np.uint8)
    ok = np.isfinite(back)
    np.testing.assert_array_equal(again[ok], codes.view(np.uint8)[ok])


def test_tf32_has_ten_bits() -> None:
    x = np.array([1 + 2**-11, 1 + 2**-11 + 2**-23, 1 + 3 * 2**-11, -1 - 2**-11, 1 + 2**-12, np.inf], np.float32)
    away = evaluate("cvt.rna.tf32.f32 {d}, {0};", "b32", x).view(np.float32)
    assert away.tolist() == [1 + 2**-10, 1 + 2**-10, 1 + 2**-9, -1 - 2**-10, 1, np.inf]
    even = evaluate("cvt.rn.tf32.f32 {d}, {0};", "b32", x).view(np.float32)
    assert even.tolist() == [1, 1 + 2**-10, 1 + 2**-9, -1, 1, np.inf]


def test_integers_are_packed() -> None:
    a, b = np.array([300, -300, 5], np.int32), np.array([-1, 127, 128], np.int32)
    above = np.array([0x11112222, 0, 0xABCD], np.uint32)
    args = (a.view(np.uint32), b.view(np.uint32))
    found = evaluate("cvt.pack.sat.s8.s32.b32 {d}, {0}, {1}, {2};", "b32", *args, above)
    assert [hex(x) for x in found] == ["0x22227fff", "0x807f", "0xabcd057f"]
    assert [hex(x) for x in evaluate("cvt.pack.sat.u16.s32 {d}, {0}, {1};", "b32", *args)] == [
        "0x12c0000",
        "0x7f",
        "0x50080",
    ]
