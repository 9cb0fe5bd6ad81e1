"""Logic, shifts and moved bits, against a bit at a time as the PTX ISA writes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx_snippet import evaluate

RNG = np.random.default_rng(1)


def words(bits: int, count: int = 300) -> np.ndarray:
    edges = [0, 1, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1, 0x80FF7F01 % (1 << bits)]
    random = RNG.integers(0, 2**64 - 1, count, dtype=np.uint64)
    return np.concatenate([np.array(edges, np.uint64), random]).astype(f"u{bits // 8}")


def amounts(count: int, most: int = 80) -> np.ndarray:
    return np.concatenate([np.array([0, 1, 31, 32, 33, 63, 64, 65]), RNG.integers(0, most, count - 8)]).astype(
        np.uint32
    )


def check(template: str, bits: int, wanted: Callable[..., int], *arrays: np.ndarray) -> None:
    found = evaluate(template, f"b{bits}", *arrays)
    for i, numbers in enumerate(zip(*[array.tolist() for array in arrays], strict=True)):
        assert int(found[i]) == wanted(*numbers) % (1 << bits), (template, numbers)


def signed(number: int, bits: int) -> int:
    return number - (1 << bits) if number >> (bits - 1) else number


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits: int) -> None:
    a, b = words(bits), words(bits)
    check(f"and.b{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, y: x & y, a, b)
    check(f"or.b{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, y: x | y, a, b)
    check(f"xor.b{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, y: x ^ y, a, b)
    check(f"not.b{bits} {{d}}, {{0}};", bits, lambda x: ~x, a)
    check(f"cnot.b{bits} {{d}}, {{0}};", bits, lambda x: int(x == 0), a)


def test_logic_of_predicates() -> None:
    a, b = (RNG.integers(0, 2, 64).astype(bool) for _ in range(2))
    np.testing.assert_array_equal(evaluate("and.pred {d}, {0}, {1};", "pred", a, b), a & b)
    np.testing.assert_array_equal(evaluate("or.pred {d}, {0}, {1};", "pred", a, b), a | b)
    np.testing.assert_array_equal(evaluate("xor.pred {d}, {0}, {1};", "pred", a, b), a ^ b)
    np.testing.assert_array_equal(evaluate("not.pred {d}, {0};", "pred", a), ~a)
    np.testing.assert_array_equal(evaluate("mov.pred {d}, {0};", "pred", a), a)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_by_the_width_or_more_leave_nothing_or_the_sign(bits: int) -> None:
    a = words(bits)
    by = amounts(len(a))
    check(f"shl.b{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, n: x << n, a, by)
    check(f"shr.u{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, n: x >> n, a, by)
    check(f"shr.s{bits} {{d}}, {{0}}, {{1}};", bits, lambda x, n: signed(x, bits) >> n, a, by)
    check(f"shr.s{bits} {{d}}, {{0}}, 200;", bits, lambda x: signed(x, bits) >> 200, a)


def test_funnel_shifts() -> None:
    low, high = words(32), words(32)
    by = amounts(len(low))

    def check_mode(name: str, function: Callable[[int, int], int], limit: Callable[[int], int]) -> None:
        template = f"shf.{name}.b32 {{d}}, {{0}}, {{1}}, {{2}};"
        check(template, 32, lambda a, b, n: function((b << 32) | a, limit(n)), low, high, by)

    check_mode("l.wrap", lambda both, n: (both << n) >> 32, lambda n: n & 31)
    check_mode("l.clamp", lambda both, n: (both << n) >> 32, lambda n: min(n, 32))
    check_mode("r.wrap", lambda both, n: both >> n, lambda n: n & 31)
    check_mode("r.clamp", lambda both, n: both >> n, lambda n: min(n, 32))


def extracted(a: int, start: int, length: int, bits: int, is_signed: bool) -> int:
    """The PTX ISA's definition of bfe."""
    start, length, last = start & 255, length & 255, bits - 1
    sign = a >> min(start + length - 1, last) & 1 if is_signed and length else 0
    return sum((a >> (start + i) & 1 if i < length and start + i <= last else sign) << i for i in range(bits))


@pytest.mark.parametrize("bits", [32, 64])
def test_fields_of_bits(bits: int) -> None:
    a, b = words(bits), words(bits)
    start, length = amounts(len(a)), amounts(len(a))[::-1].copy()
    check(f"bfe.u{bits} {{d}}, {{0}}, {{1}}, {{2}};", bits, lambda *x: extracted(*x, bits, False), a, start, length)
    check(f"bfe.s{bits} {{d}}, {{0}}, {{1}}, {{2}};", bits, lambda *x: extracted(*x, bits, True), a, start, length)

    def inserted(field: int, into: int, at: int, count: int) -> int:
        for i in range(count & 255):
            if (at & 255) + i < bits:
                into = into & ~(1 << ((at & 255) + i)) | (field >> i & 1) << ((at & 255) + i)
        return into

    check(f"bfi.b{bits} {{d}}, {{0}}, {{1}}, {{2}}, {{3}};", bits, inserted, a, b, start, length)


@pytest.mark.parametrize("bits", [32, 64])
def test_counts_of_bits(bits: int) -> None:
    a = np.concatenate([words(bits), np.array([1 << i for i in range(bits)], f"u{bits // 8}")])
    check(f"popc.b{bits} {{d}}, {{0}};", 32, lambda x: x.bit_count(), a)
    check(f"clz.b{bits} {{d}}, {{0}};", 32, lambda x: bits - x.bit_length(), a)
    check(f"bfind.u{bits} {{d}}, {{0}};", 32, lambda x: x.bit_length() - 1, a)
    check(f"brev.b{bits} {{d}}, {{0}};", bits, lambda x: int(f"{x:0{bits}b}"[::-1], 2), a)

    def highest(x: int) -> int:
        return (~x % (1 << bits) if x >> (bits - 1) else x).bit_length() - 1

    check(f"bfind.s{bits} {{d}}, {{0}};", 32, highest, a)
    check(f"bfind.shiftamt.s{bits} {{d}}, {{0}};", 32, lambda x: bits - 1 - highest(x) if highest(x) >= 0 else -1, a)


@pytest.mark.parametrize("table", [0x00, 0xFF, 0x96, 0xE8, 0xCA, 0xB8, 0x6A, 0xFE, 0x80, 0x01])
def test_lop3_is_any_function_of_three_bits(table: int) -> None:
    def wanted(a: int, b: int, c: int) -> int:
        return sum((table >> ((a >> i & 1) * 4 + (b >> i & 1) * 2 + (c >> i & 1)) & 1) << i for i in range(32))

    check(f"lop3.b32 {{d}}, {{0}}, {{1}}, {{2}}, {table};", 32, wanted, words(32), words(32), words(32))


def byte_of(a: int, b: int, number: int) -> int:
    return ((b << 32) | a) >> (8 * number) & 255


def test_prmt_takes_bytes_or_their_signs() -> None:
    def wanted(a: int, b: int, c: int) -> int:
        result = 0
        for i in range(4):
            selector = c >> (4 * i) & 15
            byte = byte_of(a, b, selector & 7)
            if selector & 8:
                byte = 255 if byte & 128 else 0
            result |= byte << (8 * i)
        return result

    check("prmt.b32 {d}, {0}, {1}, {2};", 32, wanted, words(32), words(32), words(32))


MODES = {
    "f4e": lambda i, n: n + i,
    "b4e": lambda i, n: (n - i) % 8,
    "rc8": lambda i, n: n,
    "ecl": lambda i, n: max(i, n),
    "ecr": lambda i, n: min(i, n),
    "rc16": lambda i, n: 2 * (n & 1) + (i & 1),
}
"""Which byte becomes byte i if the two lowest bits of the selector are n: the table of the PTX ISA as formulas."""


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_prmt(mode: str) -> None:
    def wanted(a: int, b: int, c: int) -> int:
        return sum(byte_of(a, b, MODES[mode](i, c & 3)) << (8 * i) for i in range(4))

    check(f"prmt.b32.{mode} {{d}}, {{0}}, {{1}}, {{2}};", 32, wanted, words(32), words(32), words(32))


def test_masks_and_extensions() -> None:
    a = words(32)
    by = amounts(len(a))

    def extended(x: int, n: int, is_signed: bool) -> int:
        n = min(n, 32)
        x &= (1 << n) - 1
        return x - (1 << n) if is_signed and n and x >> (n - 1) else x

    check("szext.clamp.u32 {d}, {0}, {1};", 32, lambda x, n: extended(x, n, False), a, by)
    check("szext.wrap.s32 {d}, {0}, {1};", 32, lambda x, n: extended(x, n & 31, True), a, by)
    start = amounts(len(a))[::-1].copy()
    check("bmsk.clamp.b32 {d}, {0}, {1};", 32, lambda x, n: ((1 << min(n, 32)) - 1) << min(x, 32), start, by)
    check("bmsk.wrap.b32 {d}, {0}, {1};", 32, lambda x, n: ((1 << (n & 31)) - 1) << (x & 31), start, by)


def test_words_are_put_together_and_taken_apart() -> None:
    a, b = words(16), words(16)
    check("mov.b32 {d}, {{{0}, {1}}};", 32, lambda x, y: y << 16 | x, a, b)
    check("mov.b64 {d}, {{{0}, {1}, {1}, {0}}};", 64, lambda x, y: x << 48 | y << 32 | y << 16 | x, a, b)
    check("mov.b32 {{{d}, _}}, {0};", 16, lambda x: x & 0xFFFF, words(32))
    check("mov.b32 {{_, {d}}}, {0};", 16, lambda x: x >> 16, words(32))
    check("mov.b64 {{r9, {d}}}, {0};", 32, lambda x: x >> 32, words(64))
    floats = RNG.standard_normal(64).astype(np.float32)
    np.testing.assert_array_equal(evaluate("mov.b32 {d}, {0};", "b32", floats), floats.view(np.uint32))
