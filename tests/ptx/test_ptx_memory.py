"""Loads and stores in all spaces, and accesses that must not be: each with a kernel beside it that is in order."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_global import GlobalMemory
from ptx_parse import parse
from ptx_run import Unwritten
from ptx_run import launch as start
from ptx_snippet import kernel, launch

THREAD = "mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1];"


def copied(load: str, store: str, size: int, count: int = 32) -> np.ndarray:
    """Random bytes through one load and one store of `size` bytes for each thread."""
    data = np.random.default_rng(8).integers(0, 256, size * count).astype(np.uint8)
    out = np.zeros_like(data)
    body = f"{THREAD} mad.wide.u32 d2, r0, {size}, d0; mad.wide.u32 d3, r0, {size}, d1; {load} {store}"
    launch(kernel(body, "u64", "u64"), 1, count, data, Unwritten(out))
    np.testing.assert_array_equal(out, data)


@pytest.mark.parametrize(
    ("load", "store", "size"),
    [
        ("ld.global.u8 h1, [d2];", "st.global.u8 [d3], h1;", 1),
        ("ld.global.nc.u16 h1, [d2];", "st.global.b16 [d3], h1;", 2),
        ("ld.global.L1::no_allocate.L2::128B.v2.f32 {f1, f2}, [d2];", "st.global.v2.f32 [d3], {f1, f2};", 8),
        ("ld.global.nc.L2::256B.v4.u32 {r1, r2, r3, r4}, [d2];", "st.global.v4.b32 [d3], {r1, r2, r3, r4};", 16),
        ("ld.volatile.global.v2.u64 {d4, d5}, [d2];", "st.global.cs.v2.u64 [d3], {d4, d5};", 16),
        ("ld.global.v4.u16 {h1, h2, h3, h4}, [d2];", "st.global.v4.u16 [d3], {h1, h2, h3, h4};", 8),
        ("ld.relaxed.gpu.global.f64 g1, [d2];", "st.relaxed.gpu.global.f64 [d3], g1;", 8),
        ("ld.b32 r1, [d2];", "st.b32 [d3], r1;", 4),
        ("ld.global.b16 h1, [d2+2]; ld.global.b16 h2, [d2];", "st.global.b16 [d3], h2; st.global.b16 [d3+2], h1;", 4),
    ],
)
def test_widths_vectors_and_qualifiers(load: str, store: str, size: int) -> None:
    copied(load, store, size)


def test_narrow_loads_are_extended_and_narrow_stores_cut() -> None:
    data = np.array([0x80, 0x7F, 0xFF, 1], np.uint8)
    out = np.zeros((4, 4), np.uint32)
    body = f"""{THREAD} cvt.u64.u32 d4, r0; add.u64 d2, d0, d4; mad.wide.u32 d3, r0, 16, d1;
    ld.global.u8 r1, [d2]; ld.global.s8 r2, [d2]; ld.global.s8 h3, [d2]; cvt.u32.u16 r3, h3;
    mov.u32 r4, 0xAABBCCDD; st.global.v2.u32 [d3], {{r1, r2}}; st.global.u32 [d3+8], r3;
    st.global.u32 [d3+12], 0; st.global.u8 [d3+13], r4;
    """
    launch(kernel(body, "u64", "u64"), 1, 4, data, Unwritten(out))
    assert out[:, 0].tolist() == [0x80, 0x7F, 0xFF, 1]
    assert out[:, 1].view(np.int32).tolist() == [-128, 127, -1, 1]
    assert out[:, 2].tolist() == [0xFF80, 0x7F, 0xFFFF, 1]
    assert out[:, 3].tolist() == [0xDD00] * 4


def test_parameters_of_all_types() -> None:
    body = """
    ld.param.u64 d0, [param0]; ld.param.u32 r1, [param1]; ld.param.f32 f1, [param2]; ld.param.f64 g1, [param3];
    ld.param.u8 h1, [param4]; ld.param.v2.u32 {r2, r3}, [param5+8];
    st.global.u32 [d0], r1; st.global.f32 [d0+4], f1; st.global.f64 [d0+8], g1; st.global.u16 [d0+16], h1;
    st.global.u32 [d0+20], r3;
    """
    out = np.zeros(24, np.uint8)
    text = kernel(body, "u64", "u32", "f32", "f64", "u8", "X").replace(
        ".param .X param5", ".param .align 8 .b8 param5[16]"
    )
    block = np.array([1, 2, 3, 4], np.uint32).tobytes()
    launch(text, 1, 1, out, -2, 1.5, 2.25, 200, block)
    assert out[:4].view(np.int32)[0] == -2
    assert out[4:8].view(np.float32)[0] == 1.5
    assert out[8:16].view(np.float64)[0] == 2.25
    assert out[16:18].view(np.uint16)[0] == 200
    assert out[20:].view(np.uint32)[0] == 4
    with pytest.raises(PtxError, match="takes 6 parameters"):
        start(parse(text), "k", 1, 1, [0], GlobalMemory())


def test_constants_of_the_module_and_their_addresses() -> None:
    module = ".const .align 4 .u32 table[4] = {7, 8, 0x9, 10};\n.global .align 4 .f32 scale = 0f40000000;"
    body = f"""{THREAD} mov.u64 d4, table; mad.wide.u32 d4, r0, 4, d4; ld.const.u32 r1, [d4];
    ld.const.u32 r2, [table+4]; ld.global.f32 f1, [scale]; cvt.rzi.u32.f32 r3, f1; mad.lo.u32 r1, r1, r3, r2;
    mad.wide.u32 d3, r0, 4, d1; st.global.u32 [d3], r1;
    """
    out = np.zeros(4, np.uint32)
    launch(kernel(body, "u64", "u64", module=module), 1, 4, np.zeros(1), out)
    assert out.tolist() == [22, 24, 26, 28]


LOCAL = ".local .align 16 .b8 depot[32];"


def test_local_memory_is_each_thread_s_own() -> None:
    body = f"""{THREAD} mov.u64 d4, depot; cvta.local.u64 d5, d4; cvta.to.local.u64 d6, d5;
    and.b32 r1, r0, 7; mul.wide.u32 d7, r1, 4; add.u64 d6, d6, d7; add.u64 d5, d5, d7;
    st.local.u32 [d6], r0; ld.u32 r2, [d5]; mad.wide.u32 d3, r0, 4, d1; st.global.u32 [d3], r2;
    """
    out = np.zeros(64, np.uint32)
    launch(kernel(body, "u64", "u64", arrays=LOCAL), 1, 64, np.zeros(1), out)
    assert out.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.local.u32 r1, [depot+8];", "reads byte 8 of local memory, which the thread has not written"),
        ("st.local.u32 [depot+32], r0;", "byte 32 of local memory, which has 32"),
        ("st.local.v4.u32 [depot+8], {r0, r0, r0, r0};", "byte 8 of local memory.*not aligned"),
        ("st.local.u16 [depot], h0; ld.local.u32 r1, [depot];", "which the thread has not written"),
    ],
)
def test_local_memory_is_watched(body: str, message: str) -> None:
    before = f"{THREAD} mov.u16 h0, 1; "
    with pytest.raises(PtxError, match=message):
        launch(kernel(before + body, "u64", "u64", arrays=LOCAL), 1, 32, np.zeros(1), np.zeros(1))
    launch(
        kernel(before + "st.local.u64 [depot+8], d0; ld.local.u32 r1, [depot+12];", "u64", "u64", arrays=LOCAL),
        *(1, 32, np.zeros(1), np.zeros(1)),
    )


def test_generic_addresses_reach_all_spaces_at_once() -> None:
    """Odd threads store to shared memory, even ones to global memory, with one instruction."""
    body = f"""{THREAD} mov.u32 r9, buffer; mov.u64 d4, buffer; cvta.shared.u64 d4, d4; mad.wide.u32 d4, r0, 4, d4;
    mad.wide.u32 d3, r0, 4, d1; and.b32 r1, r0, 1; setp.eq.u32 p0, r1, 1;
    selp.b64 d5, d4, d3, p0; add.u32 r2, r0, 100; st.u32 [d5], r2;
    isspacep.shared p1, d5; ld.u32 r4, [d5];
    cvta.to.shared.u64 d6, d4; @p0 ld.shared.u32 r3, [d6]; @p0 add.u32 r3, r3, 1000; @p0 st.global.u32 [d3], r3;
    @!p1 bra END; @p0 bra END; st.global.u32 [d3], r4;
    END:
    """
    out = np.zeros(32, np.uint32)
    launch(kernel(body, "u64", "u64", arrays=".shared .align 4 .b8 buffer[128];"), 1, 32, np.zeros(1), out)
    assert out.tolist() == [100 + i + 1000 * (i & 1) for i in range(32)]


def run_on(body: str, out: np.ndarray, threads: int = 32) -> None:
    text = kernel(f"mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d2, r0, 4, d0; {body}", "u64")
    launch(text, 1, threads, out)


@pytest.mark.parametrize(
    ("bad", "good", "message"),
    [
        (
            "st.global.u32 [d2+4], r0;",
            "st.global.u32 [d2], r0;",
            "thread 31 .*4 bytes at byte 128 of param0, which has 128",
        ),
        ("ld.global.u32 r1, [d2+-4];", "ld.global.u32 r1, [d2];", "thread 0 .*byte -4 of param0"),
        (
            "ld.global.u32 r1, [d2+2];",
            "ld.global.u32 r1, [d2+0];",
            "byte 2 of param0, which has 128 is no multiple of 4",
        ),
        ("ld.global.v2.u32 {r1, r2}, [d2];", "ld.global.v2.u16 {h1, h2}, [d2];", "thread 1 .*no multiple of 8"),
        ("mov.u64 d3, 4096; ld.global.u32 r1, [d3];", "", "0x1000, where there is no array"),
        ("red.global.add.u32 [d2+64], 1;", "red.global.add.u32 [d2], 1;", "thread 16 .*byte 128 of param0"),
    ],
)
def test_bounds_and_alignment_of_arrays(bad: str, good: str, message: str) -> None:
    run_on(good, np.zeros(32, np.uint32))
    with pytest.raises(PtxError, match=f"k: `(ld|st|red).*{message}"):
        run_on(bad, np.zeros(32, np.uint32))


def test_a_huge_offset_does_not_reach_another_array() -> None:
    body = f"{THREAD} mul.wide.u32 d4, r0, 0x01000000; add.u64 d2, d0, d4; ld.global.u32 r1, [d2];"
    arrays = [np.zeros(1 << 16, np.uint8) for _ in range(2)]
    with pytest.raises(PtxError, match="byte 16777216 of param0"):
        launch(kernel(body, "u64", "u64"), 1, 32, *arrays)


def test_bytes_that_nobody_has_written() -> None:
    body = "st.global.u16 [d2], 7; {more} ld.global.u32 r1, [d2];"
    text = "mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d2, r0, 4, d0; " + body
    out = np.zeros(32, np.uint32)
    launch(kernel(text.format(more="st.global.u16 [d2+2], 1;"), "u64"), 1, 32, Unwritten(out))
    assert (out == 0x10007).all()
    launch(kernel(text.format(more=""), "u64"), 1, 32, np.zeros(32, np.uint32))
    with pytest.raises(PtxError, match=r"thread 0 .*reads byte 0 of param0, which has 128, which nobody has written"):
        launch(kernel(text.format(more=""), "u64"), 1, 32, Unwritten(np.zeros(32, np.uint32)))


def test_constants_are_not_written() -> None:
    module = ".const .align 4 .u32 table[4] = {1, 2, 3, 4};"
    body = "mov.u64 d4, table; cvta.const.u64 d4, d4; st.global.u32 [d4], 1;"
    with pytest.raises(PtxError, match="writes to table, which is constant"):
        launch(kernel(body, module=module), 1, 1)


def test_blocks_must_not_touch_the_same_bytes() -> None:
    """Each block writes its own numbers, or all write the same; a block reads what another writes."""
    before = "mov.u32 r0, %tid.x; mov.u32 r1, %ctaid.x; mad.lo.u32 r2, r1, 32, r0; ld.param.u64 d0, [param0];"
    own = f"{before} mad.wide.u32 d2, r2, 4, d0; st.global.u32 [d2], r1;"
    launch(kernel(own, "u64"), 4, 32, np.zeros(128, np.uint32))
    shared = f"{before} mad.wide.u32 d2, r0, 4, d0; st.global.u32 [d2], r1;"
    with pytest.raises(
        PtxError, match=r"writes byte 0 of param0, which was written in the same launch.*thread \d+ of block \(3"
    ):
        launch(kernel(shared, "u64"), 4, 32, np.zeros(128, np.uint32))
    launch(kernel(shared, "u64"), 1, 32, np.zeros(128, np.uint32))
    read = f"{own} xor.b32 r3, r2, 32; mad.wide.u32 d3, r3, 4, d0; ld.global.u32 r4, [d3];"
    with pytest.raises(PtxError, match="reads byte 128 of param0, which was written in the same launch"):
        launch(kernel(read, "u64"), 2, 32, np.zeros(128, np.uint32))
    first = f"{before} xor.b32 r3, r2, 32; mad.wide.u32 d3, r3, 4, d0; ld.global.u32 r4, [d3]; {own[len(before) :]}"
    with pytest.raises(PtxError, match="writes byte 0 of param0, which was read in the same launch"):
        launch(kernel(first, "u64"), 2, 32, np.zeros(128, np.uint32))


def test_threads_of_a_block_need_a_barrier_in_global_memory_too() -> None:
    body = """mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d2, r0, 4, d0; st.global.u32 [d2], r0;
    {between} xor.b32 r3, r0, 1; mad.wide.u32 d3, r3, 4, d0; ld.global.u32 r4, [d3]; {end}
    """
    out = np.zeros(32, np.uint32)
    launch(kernel(body.format(between="bar.sync 0;", end="bar.sync 0; st.global.u32 [d2], r4;"), "u64"), 1, 32, out)
    assert out.tolist() == [i ^ 1 for i in range(32)]
    with pytest.raises(
        PtxError, match="reads byte 4 of param0, which was written in the same launch, in no order: thread 1 "
    ):
        launch(kernel(body.format(between="", end=""), "u64"), 1, 32, np.zeros(32, np.uint32))
    with pytest.raises(PtxError, match="writes byte 0 of param0, which was read"):
        launch(kernel(body.format(between="bar.sync 0;", end="st.global.u32 [d2], r4;"), "u64"), 1, 32, out)


def test_what_the_kernel_writes_is_not_read_through_the_read_only_cache() -> None:
    body = """mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d2, r0, 4, d0; st.global.u32 [d2], r0;
    ld.global{nc}.u32 r4, [d2];"""
    launch(kernel(body.format(nc=""), "u64"), 1, 32, np.zeros(32, np.uint32))
    with pytest.raises(PtxError, match="reads through the read-only cache byte 0 of param0"):
        launch(kernel(body.format(nc=".nc"), "u64"), 1, 32, np.zeros(32, np.uint32))


def test_the_last_block_may_read_what_others_wrote_before_they_counted_up() -> None:
    """Blocks write, then raise a counter; who finds that it is the last adds everything up."""
    body = """mov.u32 r0, %tid.x; mov.u32 r1, %ctaid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1];
    ld.param.u64 d5, [param2];
    mad.wide.u32 d2, r1, 4, d0; setp.ne.u32 p0, r0, 0; @p0 bra END;
    add.u32 r3, r1, 5; st.global.u32 [d2], r3; membar.gl;
    {count}
    mov.u32 r5, 0; mov.u32 r6, 0;
    LOOP: mad.wide.u32 d3, r6, 4, d0; ld.global.u32 r7, [d3]; add.u32 r5, r5, r7; add.u32 r6, r6, 1;
    setp.lt.u32 p2, r6, 4; @p2 bra LOOP;
    st.global.u32 [d5], r5;
    END:
    """
    counted = "atom.global.add.u32 r4, [d1], 1; setp.ne.u32 p1, r4, 3; @p1 bra END;"
    parts, counter, total = np.zeros(4, np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    launch(kernel(body.format(count=counted), "u64", "u64", "u64"), 4, 32, Unwritten(parts), counter, total)
    assert total.tolist() == [5 + 6 + 7 + 8]
    guessed = "setp.ne.u32 p1, r1, 3; @p1 bra END;"
    with pytest.raises(PtxError, match="which was written in the same launch"):
        launch(kernel(body.format(count=guessed), "u64", "u64", "u64"), 4, 32, parts, counter, total)
