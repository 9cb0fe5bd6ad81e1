"""ldmatrix, stmatrix, movmatrix and mma, against the layouts of the PTX ISA written out lane by lane."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

RNG = np.random.default_rng(7)
SHARED = ".shared .align 16 .b8 tile[1024];"
FILL = """
    mov.u32 r0, %tid.x;
    ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 16, d0;
    ld.global.v4.b32 {r1, r2, r3, r4}, [d0];
    mov.u32 r5, tile; mad.lo.u32 r5, r0, 16, r5;
    st.shared.v4.b32 [r5], {r1, r2, r3, r4};
    bar.sync 0;
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix_gives_each_lane_two_neighbours_of_a_row(count: int, transposed: bool) -> None:
    """32 rows of 8 numbers in any order: lane 8·m + r points to row r of matrix m."""
    tile = RNG.permutation(256).astype(np.uint16).reshape(32, 8)
    order = RNG.permutation(32).astype(np.uint32)
    names = ", ".join(f"r{10 + i}" for i in range(count))
    stores = "\n".join(f"st.global.b32 [d2+{128 * i}], r{10 + i};" for i in range(count))
    body = f"""{FILL}
    ld.param.u64 d1, [param1]; mad.wide.u32 d1, r0, 4, d1; ld.global.u32 r6, [d1];
    mov.u32 r7, tile; mad.lo.u32 r7, r6, 16, r7;
    ldmatrix.sync.aligned.m8n8.x{count}{".trans" if transposed else ""}.shared.b16 {{{names}}}, [r7];
    ld.param.u64 d2, [param2]; mad.wide.u32 d2, r0, 4, d2;
    {stores}
    """
    out = np.zeros((count, 32, 2), np.uint16)
    launch(kernel(body, "u64", "u64", "u64", arrays=SHARED), 1, 32, tile, order, out)
    for m in range(count):
        matrix = tile[order[8 * m : 8 * m + 8]]
        for lane in range(32):
            for i in range(2):
                row, column = lane // 4, 2 * (lane % 4) + i
                wanted = matrix[column, row] if transposed else matrix[row, column]
                assert out[m, lane, i] == wanted


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix_is_the_inverse(transposed: bool) -> None:
    trans = ".trans" if transposed else ""
    tile = RNG.permutation(256).astype(np.uint16).reshape(32, 8)
    body = f"""{FILL}
    ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{r10, r11, r12, r13}}, [r5];
    bar.sync 0;
    xor.b32 r6, r0, 5; mov.u32 r7, tile; mad.lo.u32 r7, r6, 16, r7;
    stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [r7], {{r10, r11, r12, r13}};
    bar.sync 0;
    ld.shared.v4.b32 {{r1, r2, r3, r4}}, [r5];
    ld.param.u64 d2, [param1]; mad.wide.u32 d2, r0, 16, d2;
    st.global.v4.b32 [d2], {{r1, r2, r3, r4}};
    """
    out = np.zeros((32, 8), np.uint16)
    launch(kernel(body, "u64", "u64", arrays=SHARED), 1, 32, tile, out)
    np.testing.assert_array_equal(out, tile[np.arange(32) ^ 5])


def test_movmatrix_transposes() -> None:
    matrix = RNG.permutation(64).astype(np.uint16).reshape(8, 8)
    body = """
    mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 4, d0; ld.global.b32 r1, [d0];
    movmatrix.sync.aligned.m8n8.trans.b16 r2, r1;
    ld.param.u64 d1, [param1]; mad.wide.u32 d1, r0, 4, d1; st.global.b32 [d1], r2;
    """
    out = np.zeros((8, 8), np.uint16)
    launch(kernel(body, "u64", "u64"), 1, 32, matrix, out)
    np.testing.assert_array_equal(out, matrix.T)


def place_a(shape: str, each: int, lane: int, i: int) -> tuple[int, int]:
    """Row and column of number i of lane's fragment of A: the PTX ISA's cases for each shape."""
    group, thread = lane // 4, lane % 4
    if shape == "m16n8k16" and each == 2:
        return group + (0 if i < 2 or 4 <= i < 6 else 8), thread * 2 + (i & 1) + (0 if i < 4 else 8)
    if shape == "m16n8k8" and each == 2:
        return group + (0 if i < 2 else 8), thread * 2 + (i & 1)
    if shape == "m16n8k8":  # tf32
        return group + (0 if i in (0, 2) else 8), thread + (0 if i in (0, 1) else 4)
    if shape == "m16n8k4":
        return group + (0 if i == 0 else 8), thread
    if shape == "m16n8k32":
        return group + (0 if i < 4 or 8 <= i < 12 else 8), thread * 4 + (i & 3) + (0 if i < 8 else 16)
    return group + (0 if i < 4 else 8), thread * 4 + (i & 3)  # m16n8k16 of bytes


def place_b(shape: str, each: int, lane: int, i: int) -> tuple[int, int]:
    group, thread = lane // 4, lane % 4
    if each == 2:
        return thread * 2 + (i & 1) + (0 if i < 2 else 8), group
    if each == 1:
        return thread + 4 * i, group
    return thread * 4 + (i & 3) + (0 if i < 4 else 16), group


def place_c(lane: int, i: int) -> tuple[int, int]:
    return lane // 4 + (0 if i < 2 else 8), lane % 4 * 2 + (i & 1)


def fragments(matrix: np.ndarray, place, per_lane: int) -> np.ndarray:
    """[32, numbers of a lane]."""
    return np.array([[matrix[place(lane, i)] for i in range(per_lane)] for lane in range(32)], matrix.dtype)


CASES = {
    "f16 k16": ("m16n8k16", 16, "f16", np.float16, "f32"),
    "f16 k8": ("m16n8k8", 8, "f16", np.float16, "f32"),
    "f16 k16 in f16": ("m16n8k16", 16, "f16", np.float16, "f16"),
    "f16 k8 in f16": ("m16n8k8", 8, "f16", np.float16, "f16"),
    "bf16 k16": ("m16n8k16", 16, "bf16", ml_dtypes.bfloat16, "f32"),
    "bf16 k8": ("m16n8k8", 8, "bf16", ml_dtypes.bfloat16, "f32"),
    "tf32 k8": ("m16n8k8", 8, "tf32", np.float32, "f32"),
    "tf32 k4": ("m16n8k4", 4, "tf32", np.float32, "f32"),
    "s8 k32": ("m16n8k32", 32, "s8", np.int8, "s32"),
    "u8 k32": ("m16n8k32", 32, "u8", np.uint8, "s32"),
    "s8 k16": ("m16n8k16", 16, "s8", np.int8, "s32"),
    "e4m3 k32": ("m16n8k32", 32, "e4m3", ml_dtypes.float8_e4m3fn, "f32"),
    "e5m2 k32": ("m16n8k32", 32, "e5m2", ml_dtypes.float8_e5m2, "f32"),
}


def multiplied(case: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, warps: int = 1) -> np.ndarray:
    """D [16, 8] by the instruction, for each of several warps the same."""
    shape, _, kind, dtype, accumulator = CASES[case]
    each = 4 // np.dtype(dtype).itemsize
    count_a, count_b = 2 * a.shape[1] // (4 * each), a.shape[1] // (4 * each)
    count_c = 2 if accumulator == "f16" else 4
    words = [
        fragments(a, lambda lane, i: place_a(shape, each, lane, i), count_a * each),
        fragments(b, lambda lane, i: place_b(shape, each, lane, i), count_b * each),
        fragments(c, place_c, 4),
    ]
    words = [np.ascontiguousarray(x).view(np.uint32).reshape(32, -1) for x in words]
    loads, names = ["mov.u32 r0, %laneid;"], []
    first = {"f32": "f"}.get(accumulator, "r")
    for p, (prefix, count) in enumerate(
        (("r1", count_a), ("r2", count_b), (f"{first}3" if first == "r" else "f", count_c))
    ):
        listed = [f"{prefix}{i}" for i in range(count)]
        loads.append(f"ld.param.u64 d0, [param{p}]; mad.wide.u32 d0, r0, {4 * count}, d0;")
        loads += [
            f"ld.global.{'f32' if name[0] == 'f' else 'b32'} {name}, [d0+{4 * i}];" for i, name in enumerate(listed)
        ]
        names.append("{" + ", ".join(listed) + "}")
    results = [f"{'f2' if first == 'f' else 'r4'}{i}" for i in range(count_c)]
    kinds = f"{accumulator}.{kind}.{kind}.{accumulator}"
    loads.append(f"mma.sync.aligned.{shape}.row.col.{kinds} {{{', '.join(results)}}}, {', '.join(names)};")
    loads.append(f"mov.u32 r9, %tid.x; ld.param.u64 d0, [param3]; mad.wide.u32 d0, r9, {4 * count_c}, d0;")
    loads += [f"st.global.{'f32' if n[0] == 'f' else 'b32'} [d0+{4 * i}], {n};" for i, n in enumerate(results)]
    out = np.zeros((warps, 32, 4), c.dtype)
    launch(kernel("\n".join(loads), "u64", "u64", "u64", "u64"), 1, 32 * warps, *words, out)
    d = np.zeros((16, 8), c.dtype)
    for lane in range(32):
        for i in range(4):
            d[place_c(lane, i)] = out[-1, lane, i]
    np.testing.assert_array_equal(out, np.broadcast_to(out[:1], out.shape))
    return d


@pytest.mark.parametrize("case", CASES)
def test_layouts_of_mma(case: str) -> None:
    """Small whole numbers, whose products and sums are exact: a number at a wrong place shows."""
    _, k, _, dtype, accumulator = CASES[case]
    low = 0 if case.startswith("u8") else -4
    a, b = (RNG.integers(low, 5, shape).astype(dtype) for shape in ((16, k), (k, 8)))
    c = RNG.integers(-9, 9, (16, 8)).astype({"f32": np.float32, "f16": np.float16, "s32": np.int32}[accumulator])
    wanted = a.astype(np.float64) @ b.astype(np.float64) + c
    np.testing.assert_array_equal(multiplied(case, a, b, c, warps=3), wanted.astype(c.dtype))


def test_whole_range_of_bytes() -> None:
    a, b = (RNG.integers(-128, 128, shape).astype(np.int8) for shape in ((16, 32), (32, 8)))
    c = np.full((16, 8), 2**31 - 1000, np.int32)
    wanted = (a.astype(np.int64) @ b.astype(np.int64) + c).astype(np.int32)  # wraps
    np.testing.assert_array_equal(multiplied("s8 k32", a, b, c), wanted)


@pytest.mark.parametrize("case", ["f16 k16", "bf16 k16", "e4m3 k32"])
def test_sums_are_rounded_to_float32_after_each_16_bytes_of_k(case: str) -> None:
    _, k, _, dtype, _ = CASES[case]
    a, b = (RNG.standard_normal(shape).astype(dtype) for shape in ((16, k), (k, 8)))
    c = (1000 * RNG.standard_normal((16, 8))).astype(np.float32)
    wanted = c
    for half in (slice(0, k // 2), slice(k // 2, k)):
        exact = a[:, half].astype(np.float64) @ b[half].astype(np.float64)
        wanted = (wanted + exact).astype(np.float32)
    np.testing.assert_array_equal(multiplied(case, a, b, c), wanted)


def test_infinity_and_nan_stay_in_their_rows() -> None:
    a, b = np.ones((16, 16), np.float16), np.ones((16, 8), np.float16)
    a[3, 5], a[7, 1] = np.inf, np.nan
    found = multiplied("f16 k16", a, b, np.zeros((16, 8), np.float32))
    assert np.isinf(found[3]).all()
    assert np.isnan(found[7]).all()
    assert (np.delete(found, [3, 7], axis=0) == 16).all()


def test_mma_needs_all_lanes() -> None:
    mma = "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {f0, f1, f2, f3}, {r1, r1}, {r1}, {f0, f1, f2, f3};"
    zero = " ".join(f"mov.f32 f{i}, 0f00000000;" for i in range(4))
    body = f"mov.u32 r0, %tid.x; mov.u32 r1, 0; {zero} setp.ge.u32 p0, r0, 31; @p0 bra END; {mma} END:"
    with pytest.raises(PtxError, match="threads 0–30 wait for the other lanes of their warp at `mma"):
        launch(kernel(body), 1, 32)
    with pytest.raises(PtxError, match="wait for the other lanes"):
        launch(kernel(f"mov.u32 r1, 0; {zero} {mma}"), 1, 48)
    launch(kernel(body.replace("31;", "99;")), 1, 32)


def test_rows_of_matrices_have_to_lie_on_16_bytes() -> None:
    body = f"{FILL} add.u32 r5, r5, 8; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{r10}}, [r5];"
    with pytest.raises(PtxError, match="no multiple of 16"):
        launch(kernel(body, "u64", arrays=SHARED), 1, 32, np.zeros(256, np.uint16))
