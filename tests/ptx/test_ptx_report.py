"""Counts of instructions, bank conflicts and sectors."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_report import Report
from ptx_snippet import kernel, launch

ARRAYS = ".shared .align 16 .b8 tile[16384];"


def profiled(body: str, *arrays: np.ndarray, grid: int = 1, block: int = 32) -> Report:
    text = kernel(f"mov.u32 r0, %tid.x; mov.u32 r10, tile; {body}", *["u64"] * len(arrays), arrays=ARRAYS)
    return launch(text, grid, block, *arrays, profile=True)


@pytest.mark.parametrize(
    ("address", "store", "ideal", "conflicts"),
    [
        ("mul.lo.u32 r1, r0, 4;", "u32 [r1], r0", 1, 0),
        ("mul.lo.u32 r1, r0, 8;", "u32 [r1], r0", 1, 1),
        ("mul.lo.u32 r1, r0, 128;", "u32 [r1], r0", 1, 31),
        ("mul.lo.u32 r1, r0, 132;", "u32 [r1], r0", 1, 0),
        ("mul.lo.u32 r1, r0, 2;", "u16 [r1], h0", 1, 0),
        ("mul.lo.u32 r1, r0, 8;", "v2.u32 [r1], {r0, r0}", 2, 0),
        ("mul.lo.u32 r1, r0, 16;", "v4.u32 [r1], {r0, r0, r0, r0}", 4, 0),
        ("mul.lo.u32 r1, r0, 32;", "v4.u32 [r1], {r0, r0, r0, r0}", 4, 4),
        ("mul.lo.u32 r1, r0, 128;", "v4.u32 [r1], {r0, r0, r0, r0}", 4, 28),
        ("mul.lo.u32 r1, r0, 144;", "v4.u32 [r1], {r0, r0, r0, r0}", 4, 0),
    ],
)
def test_bank_conflicts_by_stride(address: str, store: str, ideal: int, conflicts: int) -> None:
    report = profiled(f"mov.u16 h0, 1; {address} add.u32 r1, r1, r10; st.shared.{store};")
    (use,) = report.shared.values()
    assert (use.executions, use.ideal, use.conflicts) == (1, ideal, conflicts)
    assert report.conflicts == conflicts


def test_one_word_for_all_lanes_is_no_conflict() -> None:
    body = "setp.eq.u32 p0, r0, 0; @p0 st.shared.u32 [r10], 5; bar.sync 0; ld.shared.u32 r2, [r10];"
    assert profiled(body, block=96).conflicts == 0
    assert [use.executions for use in profiled(body, block=96).shared.values()] == [1, 3]


def test_matrices_want_padded_rows() -> None:
    for stride, conflicts in ((16, 0), (128, 28), (144, 0)):
        body = f"""mad.lo.u32 r1, r0, {stride}, r10; st.shared.v4.u32 [r1], {{r0, r0, r0, r0}}; bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{r2, r3, r4, r5}}, [r1];"""
        load = next(use for use in profiled(body).shared.values() if use.text.startswith("ldmatrix"))
        assert (load.ideal, load.conflicts) == (4, conflicts)


def test_sectors_of_global_memory() -> None:
    def load(address: str, kind: str = "u32 r2") -> tuple[int, int]:
        array = np.zeros(4096, np.uint32)
        report = profiled(f"ld.param.u64 d0, [param0]; {address} add.u64 d1, d0, d1; ld.global.{kind}, [d1];", array)
        (use,) = report.global_.values()
        assert use.arrays == {"param0"}
        return use.sectors, use.ideal

    assert load("mul.wide.u32 d1, r0, 4;") == (4, 4)
    assert load("mul.wide.u32 d1, r0, 4; add.u64 d1, d1, 4;") == (5, 4)
    assert load("mul.wide.u32 d1, r0, 64;") == (32, 4)
    assert load("mov.u64 d1, 0;") == (1, 1)
    assert load("mul.wide.u32 d1, r0, 16;", "v4.u32 {r2, r3, r4, r5}") == (16, 16)
    assert load("mul.wide.u32 d1, r0, 2;", "u16 h1") == (2, 2)


def test_how_often_each_byte_is_touched() -> None:
    body = """ld.param.u64 d0, [param0]; ld.param.u64 d2, [param1];
    mad.wide.u32 d1, r0, 4, d0; mad.wide.u32 d3, r0, 4, d2;
    ld.global.u32 r2, [d1]; ld.global.u16 h1, [d0+6]; st.global.u32 [d3], r2;"""
    report = profiled(body, np.zeros(40, np.uint32), np.zeros(33, np.uint32))
    assert report.reads("param0").tolist() == [1] * 6 + [33] * 2 + [1] * 120 + [0] * 32
    assert report.writes("param0").sum() == 0
    assert report.writes("param1").tolist() == [1] * 128 + [0] * 4
    assert report.reads("param1").tolist() == [0] * 132
    copies = """ld.param.u64 d0, [param0]; mad.lo.u32 r1, r0, 16, r10; mad.wide.u32 d1, r0, 16, d0;
    cp.async.cg.shared.global [r1], [d1], 16;"""
    assert profiled(copies, np.zeros(128, np.uint32)).reads("param0").tolist() == [1] * 512


def test_instructions_are_counted_by_warps() -> None:
    body = """mov.u32 r1, 0; L: add.u32 r1, r1, 1; setp.le.u32 p0, r1, r0; @p0 bra L;
    setp.ge.u32 p1, r0, 40; @p1 ret; xor.b32 r2, r1, 1;"""
    report = profiled(body, grid=2, block=64)
    assert report.counts["add.u32"] == 2 * (32 + 64)
    assert report.counts["xor.b32"] == 4
    assert report.count("setp") == 2 * (32 + 64) + 4
    assert report.instructions == sum(report.counts.values())
    assert report.shared == {}
