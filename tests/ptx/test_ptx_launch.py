"""Grids, special registers, limits of launches, and instructions without an effect here."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_parse import parse
from ptx_run import Unwritten, run
from ptx_snippet import kernel, launch

SPECIAL = [f"%{name}.{axis}" for name in ("tid", "ctaid", "ntid", "nctaid") for axis in "xyz"]


def test_threads_and_blocks_in_three_dimensions() -> None:
    """x runs fastest, of threads and of blocks; blocks of 30 threads leave two lanes of a warp empty."""
    stores = "\n".join(f"mov.u32 r5, {name}; st.global.u32 [d1+{4 * i}], r5;" for i, name in enumerate(SPECIAL))
    body = f"""
    mov.u32 r1, %ctaid.z; mov.u32 r2, %nctaid.y; mov.u32 r3, %ctaid.y; mad.lo.u32 r1, r1, r2, r3;
    mov.u32 r2, %nctaid.x; mov.u32 r3, %ctaid.x; mad.lo.u32 r1, r1, r2, r3;
    mov.u32 r2, %ntid.z; mov.u32 r3, %tid.z; mad.lo.u32 r1, r1, r2, r3;
    mov.u32 r2, %ntid.y; mov.u32 r3, %tid.y; mad.lo.u32 r1, r1, r2, r3;
    mov.u32 r2, %ntid.x; mov.u32 r3, %tid.x; mad.lo.u32 r1, r1, r2, r3;
    ld.param.u64 d0, [param0]; mad.wide.u32 d1, r1, 48, d0;
    {stores}
    """
    grid, block = (2, 3, 4), (5, 3, 2)
    out = np.zeros((*grid[::-1], *block[::-1], 12), np.uint32)
    launch(kernel(body, "u64"), grid, block, Unwritten(out))
    for at in np.ndindex(out.shape[:-1]):
        bz, by, bx, tz, ty, tx = at
        assert out[at].tolist() == [tx, ty, tz, bx, by, bz, *block, *grid]


def test_a_failing_thread_is_named_by_its_place() -> None:
    body = """mov.u32 r0, %tid.y; mov.u32 r1, %ctaid.y; add.u32 r2, r0, r1; setp.eq.u32 p0, r2, 3; @p0 trap;"""
    with pytest.raises(
        PtxError, match=r"k: `@p0 trap` \(line \d+\), thread \(0, 1, 0\) of block \(0, 2, 0\): the kernel stops"
    ):
        launch(kernel(body), (2, 3, 1), (4, 2, 1))


def test_many_blocks_run_in_pieces() -> None:
    out = np.zeros(300 * 64, np.uint32)
    body = """mov.u32 r0, %ctaid.x; mov.u32 r1, %tid.x; mad.lo.u32 r2, r0, 64, r1; ld.param.u64 d0, [param0];
    mad.wide.u32 d1, r2, 4, d0; mov.u32 r5, cell; mad.lo.u32 r5, r1, 4, r5; st.shared.u32 [r5], r2; bar.sync 0;
    ld.shared.u32 r6, [r5]; st.global.u32 [d1], r6;"""
    report = launch(kernel(body, "u64", arrays=".shared .b32 cell[64];"), 300, 64, Unwritten(out))
    np.testing.assert_array_equal(out, np.arange(300 * 64))
    assert report.counts["bar.sync"] == 600


def test_a_race_between_blocks_of_different_pieces() -> None:
    body = """mov.u32 r0, %ctaid.x; mov.u32 r9, %tid.x; setp.eq.u32 p2, r9, 0; ld.param.u64 d0, [param0];
    setp.eq.and.u32 p0, r0, 0, p2; setp.eq.and.u32 p1, r0, 299, p2; @p0 st.global.u32 [d0], r0; {read}"""
    launch(kernel(body.format(read=""), "u64"), 300, 64, np.zeros(1, np.uint32))
    with pytest.raises(PtxError, match=r"block \(299, 0, 0\): reads byte 0 of param0.*thread 0 of block \(0, 0, 0\)"):
        launch(kernel(body.format(read="@p1 ld.global.u32 r1, [d0];"), "u64"), 300, 64, np.zeros(1, np.uint32))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        (0, 32, "at least 1 of each"),
        (1, (32, 33, 1), "at most 1024 threads"),
        (1, (1, 1, 128), "limits of a GPU"),
        ((1, 70000, 1), 32, "limits of a GPU"),
        (1, 128, "compiled for at most 64 threads"),
    ],
)
def test_sizes_that_no_gpu_takes(grid, block, message: str) -> None:
    text = kernel("mov.u32 r0, 1;").replace("()\n{", "()\n.maxntid 64, 1, 1\n{")
    assert ".maxntid" in text
    launch(text, 1, 64)
    with pytest.raises(PtxError, match=message):
        launch(text, grid, block)


def test_arguments_have_to_fit() -> None:
    text = kernel("ld.param.u32 r0, [param0];", "u32")
    with pytest.raises(PtxError, match="cannot be the float"):
        launch(text, 1, 32, 1.5)
    with pytest.raises(PtxError, match="there is no kernel other, only k"):
        run(parse(text), 1, 32, 1, kernel="other")


def test_instructions_without_an_effect() -> None:
    body = """
    ld.param.u64 d0, [param0]; mov.u32 r0, %tid.x; mad.wide.u32 d1, r0, 4, d0;
    createpolicy.fractional.L2::evict_first.b64 d5, 1.0;
    ld.global.L2::cache_hint.u32 r1, [d1], d5;
    prefetch.global.L2 [d1]; membar.cta; membar.gl; fence.acq_rel.gpu; fence.proxy.async; nanosleep.u32 100;
    griddepcontrol.wait; griddepcontrol.launch_dependents; setmaxnreg.inc.sync.aligned.u32 64;
    mov.u64 d6, %globaltimer; mov.u32 r7, %clock; mov.u32 r8, %clock; setp.lt.u32 p0, r7, r8;
    @p0 add.u32 r1, r1, 1; st.global.L2::cache_hint.u32 [d1], r1, d5;
    """
    values = np.arange(32, dtype=np.uint32)
    launch(kernel(body, "u64"), 1, 32, values)
    assert values.tolist() == list(range(1, 33))
