"""Integer arithmetic, against Python's unbounded integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx_snippet import evaluate

RNG = np.random.default_rng(0)
EDGES = {bits: [0, 1, 2, 3, 5, 1 << (bits - 1), (1 << (bits - 1)) - 1, (1 << bits) - 1] for bits in (16, 32, 64)}


def operands(kind: str, count: int) -> list[np.ndarray]:
    """Every combination of edge values, and random ones, as unsigned integers."""
    bits = int(kind[1:])
    edges = np.array(EDGES[bits], f"u{bits // 8}")
    grids = [grid.reshape(-1) for grid in np.meshgrid(*[edges] * count)]
    random = RNG.integers(0, 1 << bits, (count, 200), dtype=np.uint64, endpoint=False) if bits < 64 else None
    if random is None:
        random = RNG.integers(0, 2**64 - 1, (count, 200), dtype=np.uint64)
    small = random[:, :50] % 17
    return [
        np.concatenate([grid, some, few]).astype(edges.dtype)
        for grid, some, few in zip(grids, random, small, strict=True)
    ]


def check(instruction: str, kind: str, count: int, wanted: Callable[..., int], result: int = 0) -> None:
    """`wanted` of Python integers, signed as the kind; result: bits of the result, by default the kind's."""
    bits = int(kind[1:])
    result = result or bits
    arrays = operands(kind, count)
    names = ", ".join(f"{{{i}}}" for i in range(count))
    found = evaluate(f"{instruction} {{d}}, {names};", f"b{result}", *arrays)
    signed = [a.view(f"i{bits // 8}") if kind[0] == "s" else a for a in arrays]
    for i, numbers in enumerate(zip(*[array.tolist() for array in signed], strict=True)):
        assert int(found[i]) == wanted(*numbers) % (1 << result), (instruction, numbers)


KINDS = ("u16", "s16", "u32", "s32", "u64", "s64")


@pytest.mark.parametrize("kind", KINDS)
def test_sums_products_and_their_halves(kind: str) -> None:
    bits = int(kind[1:])
    check(f"add.{kind}", kind, 2, lambda a, b: a + b)
    check(f"sub.{kind}", kind, 2, lambda a, b: a - b)
    check(f"mul.lo.{kind}", kind, 2, lambda a, b: a * b)
    check(f"mul.hi.{kind}", kind, 2, lambda a, b: (a * b) >> bits)
    check(f"mad.lo.{kind}", kind, 3, lambda a, b, c: a * b + c)
    check(f"mad.hi.{kind}", kind, 3, lambda a, b, c: ((a * b) >> bits) + c)
    if bits < 64:
        check(f"mul.wide.{kind}", kind, 2, lambda a, b: a * b, 2 * bits)


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_mad_wide_adds_a_number_twice_as_wide(kind: str) -> None:
    a, b = operands(kind, 2)
    c = RNG.integers(0, 2**64 - 1, len(a), dtype=np.uint64)
    found = evaluate(f"mad.wide.{kind} {{d}}, {{0}}, {{1}}, {{2}};", "b64", a, b, c)
    signed = [x.view(np.int32) if kind == "s32" else x for x in (a, b)]
    for i, (x, y, z) in enumerate(zip(*[array.tolist() for array in (*signed, c)], strict=True)):
        assert int(found[i]) == (x * y + z) % 2**64


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", KINDS)
def test_division_rounds_towards_zero(kind: str) -> None:
    """By zero it gives ones, as ptxas has it; the PTX ISA leaves that open."""
    check(f"div.{kind}", kind, 2, lambda a, b: truncated(a, b) if b else -1)
    check(f"rem.{kind}", kind, 2, lambda a, b: a - truncated(a, b) * b if b else -1)


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_distance(kind: str) -> None:
    check(f"min.{kind}", kind, 2, min)
    check(f"max.{kind}", kind, 2, max)
    check(f"sad.{kind}", kind, 3, lambda a, b, c: abs(a - b) + c)
    if kind[0] == "s":
        check(f"abs.{kind}", kind, 1, abs)
        check(f"neg.{kind}", kind, 1, lambda a: -a)


def test_saturation() -> None:
    check("add.sat.s32", "s32", 2, lambda a, b: max(-(2**31), min(2**31 - 1, a + b)))
    check("sub.sat.s32", "s32", 2, lambda a, b: max(-(2**31), min(2**31 - 1, a - b)))


def cut(a: int, signed: bool) -> int:
    a &= 0xFFFFFF
    return a - (1 << 24) if signed and a >> 23 else a


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_products_of_24_bits(kind: str) -> None:
    signed = kind == "s32"
    check(f"mul24.lo.{kind}", kind, 2, lambda a, b: cut(a, signed) * cut(b, signed))
    check(f"mul24.hi.{kind}", kind, 2, lambda a, b: (cut(a, signed) * cut(b, signed)) >> 16)
    check(f"mad24.lo.{kind}", kind, 3, lambda a, b, c: cut(a, signed) * cut(b, signed) + c)


def fields(word: int, size: int, signed: bool) -> list[int]:
    numbers = [(word >> shift) & ((1 << size) - 1) for shift in range(0, 32, size)]
    return [n - (1 << size) if signed and n >> (size - 1) else n for n in numbers]


@pytest.mark.parametrize("a_kind", ["u32", "s32"])
@pytest.mark.parametrize("b_kind", ["u32", "s32"])
def test_dot_products_of_bytes(a_kind: str, b_kind: str) -> None:
    def four(a: int, b: int, c: int) -> int:
        products = zip(fields(a, 8, a_kind == "s32"), fields(b, 8, b_kind == "s32"), strict=True)
        return c + sum(x * y for x, y in products)

    def two(a: int, b: int, c: int) -> int:
        return c + sum(
            x * y for x, y in zip(fields(a, 16, a_kind == "s32"), fields(b, 8, b_kind == "s32")[2:], strict=True)
        )

    check(f"dp4a.{a_kind}.{b_kind}", "u32", 3, four)
    check(f"dp2a.hi.{a_kind}.{b_kind}", "u32", 3, two)


@pytest.mark.parametrize(("name", "function"), [("add", lambda a, b: a + b), ("min", min), ("max", max)])
@pytest.mark.parametrize("kind", ["u16x2", "s16x2"])
def test_pairs_of_16_bits(name: str, function: Callable[[int, int], int], kind: str) -> None:
    def both(a: int, b: int) -> int:
        low, high = (
            function(x, y) % 2**16
            for x, y in zip(fields(a, 16, kind[0] == "s"), fields(b, 16, kind[0] == "s"), strict=True)
        )
        return high << 16 | low

    arrays = operands("u32", 2)
    found = evaluate(f"{name}.{kind} {{d}}, {{0}}, {{1}};", "b32", *arrays)
    assert found.tolist() == [both(a, b) for a, b in zip(*[x.tolist() for x in arrays], strict=True)]
