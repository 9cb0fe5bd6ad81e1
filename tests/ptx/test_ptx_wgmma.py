"""wgmma against NumPy, with operands laid out number by number as the PTX ISA says, and how it must not be used."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

RNG = np.random.default_rng(5)
N = 16
SHARED = ".shared .align 128 .b8 tile[8192];"
FILL = """
    mov.u32 r0, %tid.x;
    ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 64, d0;
    mov.u32 r5, tile; mad.lo.u32 r6, r0, 64, r5;
    ld.global.v4.b32 {r1, r2, r3, r4}, [d0]; st.shared.v4.b32 [r6], {r1, r2, r3, r4};
    ld.global.v4.b32 {r1, r2, r3, r4}, [d0+16]; st.shared.v4.b32 [r6+16], {r1, r2, r3, r4};
    ld.global.v4.b32 {r1, r2, r3, r4}, [d0+32]; st.shared.v4.b32 [r6+32], {r1, r2, r3, r4};
    ld.global.v4.b32 {r1, r2, r3, r4}, [d0+48]; st.shared.v4.b32 [r6+48], {r1, r2, r3, r4};
    fence.proxy.async.shared::cta;
    bar.sync 0;
"""
SUMS = ", ".join(f"f{n}" for n in range(N // 2))
B_AT = 4096


def descriptor(name: str, offset: int, leading: int, stride: int) -> str:
    high = leading // 16 << 16 | stride // 16 << 32
    return f"add.u32 r7, r5, {offset}; shr.u32 r7, r7, 4; cvt.u64.u32 {name}, r7; or.b64 {name}, {name}, {high};"


def memory(transposed: bool, leading: int, stride: int, at: int, matrix: np.ndarray, data: np.ndarray) -> None:
    """Puts `matrix` [outer, 16] where a descriptor says."""
    for outer in range(matrix.shape[0]):
        for k in range(16):
            row, number = (k % 8, outer % 8) if transposed else (outer % 8, k % 8)
            place = at + outer // 8 * stride + k // 8 * leading + 16 * row + 2 * number
            data[place // 2] = matrix[outer, k]


def product(a: str, transposed: int, *, add: str = "1", end: str = "") -> str:
    tail = f"p1, 1, 1{end}, {transposed};"
    form = f"wgmma.mma_async.sync.aligned.m64n{N}k16.f32.f16.f16"
    return f"mov.u32 r8, {add}; setp.ne.u32 p1, r8, 0; {form} {{{SUMS}}}, {a}, d3, {tail}"


BEGIN = "wgmma.fence.sync.aligned;"
WAIT = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
STORE = "ld.param.u64 d9, [param1]; mad.wide.u32 d9, r0, 4, d9;" + "".join(
    f"st.global.f32 [d9+{512 * n}], f{n};" for n in range(N // 2)
)
ZERO = "".join(f"mov.f32 f{n}, 0f3F800000;" for n in range(N // 2))  # ones


def run(body: str, data: np.ndarray) -> np.ndarray:
    """D [64, N]."""
    out = np.zeros((N // 2, 128), np.float32)
    launch(kernel(body, "u64", "u64", arrays=SHARED), 1, 128, data, out)
    found = np.zeros((64, N), np.float32)
    for r in range(N // 2):
        for lane in range(128):
            w, g, t = lane // 32, lane % 32 // 4, lane % 4
            found[16 * w + g + 8 * (r // 2 % 2), 8 * (r // 4) + 2 * t + r % 2] = out[r, lane]
    return found


def matrices() -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(-8, 9, (64, 16)).astype(np.float16), RNG.integers(-8, 9, (N, 16)).astype(np.float16)


STRIDES = {"a": (1024, 128), "b": (512, 256)}
DESCRIPTORS = descriptor("d2", 0, *STRIDES["a"]) + descriptor("d3", B_AT, *STRIDES["b"])


def laid_out(a: np.ndarray, b: np.ndarray, a_transposed: bool = False, b_transposed: bool = False) -> np.ndarray:
    data = np.zeros(4096, np.float16)
    memory(a_transposed, *STRIDES["a"], 0, a, data)
    memory(b_transposed, *STRIDES["b"], B_AT, b, data)
    return data


@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("a_transposed", [False, True])
def test_both_operands_in_shared_memory(a_transposed: bool, b_transposed: bool) -> None:
    a, b = matrices()
    body = FILL + DESCRIPTORS + ZERO + BEGIN
    end = f", {int(a_transposed)}"
    body += product("d2", int(b_transposed), add="0", end=end) + product("d2", int(b_transposed), end=end) + WAIT
    found = run(body + STORE, laid_out(a, b, a_transposed, b_transposed))
    np.testing.assert_array_equal(found, 2 * a.astype(np.float32) @ b.astype(np.float32).T)


def test_a_in_registers_adds_to_what_was_there() -> None:
    a, b = matrices()
    data = laid_out(a, b)
    for lane in range(128):
        for register in range(4):
            for i in range(2):
                row = 16 * (lane // 32) + lane % 32 // 4 + 8 * (register % 2)
                data[lane * 8 + register * 2 + i] = a[row, lane % 4 * 2 + i + 8 * (register // 2)]
    load = "mad.lo.u32 r9, r0, 16, r5; ld.shared.v4.b32 {r10, r11, r12, r13}, [r9];"
    body = FILL + DESCRIPTORS + ZERO + load + BEGIN + product("{r10, r11, r12, r13}", 0) + WAIT
    np.testing.assert_array_equal(run(body + STORE, data), 1 + a.astype(np.float32) @ b.astype(np.float32).T)


GOOD = FILL + DESCRIPTORS + ZERO + BEGIN + product("d2", 0, end=", 0") + WAIT


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (BEGIN, "", "no wgmma.fence"),
        ("fence.proxy.async.shared::cta;", "", "without a fence.proxy.async"),
        (WAIT, "mov.f32 f3, 0f40000000;" + WAIT, "its result f3 was changed"),
        (WAIT, "bar.sync 0; st.shared.u32 [r6], r1; bar.sync 0;" + WAIT, "without a fence.proxy.async"),
        (WAIT, "bar.sync 0; st.shared.u32 [r6], r1; fence.proxy.async;" + WAIT, "without a barrier between"),
        (BEGIN, BEGIN + "and.b32 r8, r0, 1; cvt.u64.u32 d4, r8; add.u64 d3, d3, d4;", "different descriptors"),
        ("1, 1, 0, 0;", "1, -1, 0, 0;", "does not know"),
        (BEGIN, BEGIN + "setp.lt.u32 p2, r0, 40; @p2 ret;", "no thread of the block can go on"),
    ],
)
def test_what_it_must_not_be_used_like(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(PtxError, match=says):
        run(GOOD.replace(old, new) + STORE, laid_out(*matrices()))


def test_results_that_nobody_waited_for_are_none() -> None:
    found = run(GOOD.replace(WAIT, "wgmma.commit_group.sync.aligned;") + STORE, laid_out(*matrices()))
    assert np.isnan(found).all()


def test_a_group_may_stay_under_way() -> None:
    a, b = matrices()
    wait = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1;"
    body = GOOD.replace(WAIT, wait)
    assert np.isnan(run(body + STORE, laid_out(a, b))).all()
    late = "wgmma.wait_group.sync.aligned 0;"
    np.testing.assert_array_equal(
        run(body + late + STORE, laid_out(a, b)), 1 + a.astype(np.float32) @ b.astype(np.float32).T
    )
