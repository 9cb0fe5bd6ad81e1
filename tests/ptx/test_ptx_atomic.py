"""Atomic operations: many threads at one place, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

RNG = np.random.default_rng(9)
BEFORE = """mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1]; ld.param.u64 d2, [param2];
    and.b32 r1, r0, 3; mad.wide.u32 d3, r1, {size}, d0;
    mad.wide.u32 d4, r0, {size}, d1; mad.wide.u32 d5, r0, {size}, d2;
"""


def atomic(operation: str, kind: str, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Thread t updates cell t % 4 by values[t]; gives what each found there."""
    size = cells.itemsize
    register = {"f32": ("f1", "f2"), "f64": ("g1", "g2")}.get(kind, ("r2", "r3") if size == 4 else ("d8", "d9"))
    body = BEFORE.format(size=size)
    plain = kind if kind in ("f32", "f64") else f"b{8 * size}"
    body += f"ld.global.{plain} {register[0]}, [d4]; atom.global.{operation}.{kind} {register[1]}, [d3], {register[0]};"
    body += f"st.global.{plain} [d5], {register[1]};"
    found = np.zeros_like(values)
    launch(kernel(body, "u64", "u64", "u64"), 1, len(values), cells, values, found)
    return found


CASES: dict[str, tuple[str, str, type, Callable]] = {
    "add u32": ("add", "u32", np.uint32, lambda a, b: a + b),
    "add u64": ("add", "u64", np.uint64, lambda a, b: a + b),
    "add f32": ("add", "f32", np.float32, lambda a, b: np.float32(a + b)),
    "min s32": ("min", "s32", np.int32, min),
    "max s32": ("max", "s32", np.int32, max),
    "min u32": ("min", "u32", np.uint32, min),
    "max u64": ("max", "u64", np.uint64, max),
    "and": ("and", "b32", np.uint32, lambda a, b: a & b),
    "or": ("or", "b32", np.uint32, lambda a, b: a | b),
    "xor": ("xor", "b64", np.uint64, lambda a, b: a ^ b),
    "exch": ("exch", "b32", np.uint32, lambda a, b: b),
    "inc": ("inc", "u32", np.uint32, lambda a, b: 0 if a >= b else a + 1),
    "dec": ("dec", "u32", np.uint32, lambda a, b: b if a == 0 or a > b else a - 1),
}


@pytest.mark.parametrize("case", CASES)
def test_each_thread_finds_what_those_before_it_left(case: str) -> None:
    operation, kind, dtype, function = CASES[case]
    high = 6 if operation in ("inc", "dec") else 2**31 - 1
    values = RNG.integers(0, high, 64).astype(dtype)
    if kind[0] == "s":
        values = values - dtype(2**30)
    cells = np.zeros(4, dtype)
    if kind[0] == "f":
        values = RNG.standard_normal(64).astype(dtype)
    state, wanted = [int(x) if kind[0] != "f" else np.float32(x) for x in cells], []
    for t, value in enumerate(values.tolist() if kind[0] != "f" else values):
        wanted.append(state[t % 4])
        state[t % 4] = function(state[t % 4], value)
        if kind[0] in "ub":
            state[t % 4] %= 1 << (8 * cells.itemsize)
    np.testing.assert_array_equal(atomic(operation, kind, cells, values), np.array(wanted, dtype))
    np.testing.assert_array_equal(cells, np.array(state, dtype))


def test_compare_and_swap() -> None:
    cells = np.array([7], np.uint32)
    body = """mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1]; mad.wide.u32 d2, r0, 4, d1;
    add.u32 r1, r0, 100; atom.global.cas.b32 r2, [d0], 7, r1; st.global.u32 [d2], r2;"""
    found = np.zeros(32, np.uint32)
    launch(kernel(body, "u64", "u64"), 1, 32, cells, found)
    assert cells.tolist() == [100]
    assert found.tolist() == [7, *[100] * 31]


def test_pairs_of_halves_and_shared_memory() -> None:
    body = """mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mov.u32 r5, cell; setp.eq.u32 p0, r0, 0;
    @p0 st.shared.u32 [r5], 0; bar.sync 0;
    mov.b32 r1, {h1, h2}; atom.shared.add.noftz.f16x2 r2, [r5], r1;
    bar.sync 0; @!p0 bra END; ld.shared.b32 r3, [r5]; st.global.b32 [d0], r3; END:
    """
    one, two = (int(np.float16(x).view(np.uint16)) for x in (1, 2))
    text = kernel(f"mov.b16 h1, {one}; mov.b16 h2, {two};" + body, "u64", arrays=".shared .align 4 .b32 cell;")
    out = np.zeros(2, np.float16)
    launch(text, 1, 96, out)
    assert out.tolist() == [96, 192]


@pytest.mark.parametrize("operation", ["add.f32", "max.s32", "or.b32"])
def test_reductions_without_a_result_over_blocks(operation: str) -> None:
    name, kind = operation.split(".")
    cells = np.zeros(1, np.float32 if kind == "f32" else np.int32)
    value = "mov.f32 f1, 0f3F800000;" if kind == "f32" else "mov.u32 r1, %ctaid.x; add.u32 r1, r1, 2;"
    body = f"ld.param.u64 d0, [param0]; {value} red.global.{name}.{kind} [d0], {'f1' if kind == 'f32' else 'r1'};"
    launch(kernel(body, "u64"), 3, 40, cells)
    assert cells.tolist() == {"add": [120], "max": [4], "or": [7]}[name]


def test_atomic_and_plain_accesses_are_a_race() -> None:
    body = """ld.param.u64 d0, [param0]; mov.u32 r0, %ctaid.x; setp.eq.u32 p0, r0, 0;
    @p0 bra PLAIN; red.global.add.u32 [d0], 1; bra END; PLAIN: {plain} END:"""
    launch(kernel(body.format(plain="red.global.add.u32 [d0], 2;"), "u64"), 2, 1, np.zeros(1, np.uint32))
    for plain in ("st.global.u32 [d0], 2;", "ld.global.u32 r1, [d0];"):
        with pytest.raises(PtxError, match="in the same launch, in no order"):
            launch(kernel(body.format(plain=plain), "u64"), 2, 1, np.zeros(1, np.uint32))
    shared = """mov.u32 r0, %tid.x; mov.u32 r5, cell; setp.eq.u32 p0, r0, 0; @p0 st.shared.u32 [r5], 0; {barrier}
    red.shared.add.u32 [r5], 1;"""
    cell = ".shared .align 4 .b32 cell;"
    launch(kernel(shared.format(barrier="bar.sync 0;"), arrays=cell), 1, 64)
    with pytest.raises(PtxError, match="updates byte 0 of cell, which has 4, which was written without a barrier"):
        launch(kernel(shared.format(barrier=""), arrays=cell), 1, 64)
    with pytest.raises(PtxError, match="which nobody has written"):
        launch(kernel("mov.u32 r5, cell; red.shared.add.u32 [r5], 1;", arrays=cell), 1, 64)
