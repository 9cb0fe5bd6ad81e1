"""cp.async: data may be touched when its copy was waited for, and by others after a barrier."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

ARRAYS = ".shared .align 16 .b8 stage[2048];"
BEFORE = """
    mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1];
    mad.wide.u32 d2, r0, 16, d0; mad.wide.u32 d3, r0, 16, d1; mov.u32 r10, stage; mad.lo.u32 r11, r0, 16, r10;
    xor.b32 r1, r0, 1; mad.lo.u32 r12, r1, 16, r10;
"""
"""d2, d3: the thread's 16 bytes of the arrays; r11: its place in shared memory, r12: its neighbour's."""
OUT = "ld.shared.v4.u32 {{r20, r21, r22, r23}}, [{0}]; st.global.v4.u32 [d3], {{r20, r21, r22, r23}};"


def go(body: str, threads: int = 64) -> tuple[np.ndarray, np.ndarray]:
    data = np.random.default_rng(11).integers(0, 2**32, (threads, 4)).astype(np.uint32)
    out = np.zeros_like(data)
    launch(kernel(BEFORE + body, "u64", "u64", arrays=ARRAYS), 1, threads, data, out)
    return data, out


COPY = "cp.async.cg.shared.global [r11], [d2], 16;"
COMMIT, WAIT = "cp.async.commit_group;", "cp.async.wait_group 0;"


@pytest.mark.parametrize(
    ("copy", "size"),
    [
        ("cp.async.cg.shared.global.L2::128B [r11], [d2], 16;", 16),
        ("cp.async.ca.shared.global [r11], [d2], 8; cp.async.ca.shared.global [r11+8], [d2+8], 8;", 16),
        ("cp.async.ca.shared::cta.global [r11], [d2], 4; st.shared.u64 [r11+8], 0; st.shared.u32 [r11+4], 0;", 4),
        ("cp.async.cg.shared.global [r11], [d2], 16, 8;", 8),
        ("cp.async.ca.shared.global [r11], [d2], 16, 4;", 4),
        ("cp.async.cg.shared.global [r11], [d2], 16, 0;", 0),
    ],
)
def test_what_is_not_read_is_zero(copy: str, size: int) -> None:
    data, out = go(f"{copy} {COMMIT} {WAIT} {OUT.format('r11')}")
    data.view(np.uint8)[:, size:] = 0
    np.testing.assert_array_equal(out, data)


def test_a_copy_of_nothing_may_point_anywhere() -> None:
    body = f"selp.u32 r2, 0, 16, p0; cp.async.cg.shared.global [r11], [d2+1024], 16, r2; {COMMIT} {WAIT}"
    go("setp.ge.u32 p0, r0, 0;" + body)
    with pytest.raises(PtxError, match=r"thread 32 .*byte 1024 of param0"):
        go("setp.ge.u32 p0, r0, 32;" + body.replace("+1024", "+512").replace("0, 16, p0", "16, 0, p0"))


def test_an_own_copy_needs_a_wait_and_another_s_a_barrier_too() -> None:
    data, out = go(f"{COPY} {COMMIT} {WAIT} {OUT.format('r11')}")
    np.testing.assert_array_equal(out, data)
    data, out = go(f"{COPY} {COMMIT} {WAIT} bar.sync 0; {OUT.format('r12')}")
    np.testing.assert_array_equal(out, data[np.arange(64) ^ 1])
    data, out = go(f"{COPY} {COMMIT} {WAIT} bar.warp.sync -1; {OUT.format('r12')}")
    np.testing.assert_array_equal(out, data[np.arange(64) ^ 1])
    data, out = go(f"{COPY} cp.async.wait_all; bar.sync 0; {OUT.format('r12')}")
    np.testing.assert_array_equal(out, data[np.arange(64) ^ 1])
    under_way = "reads byte 0 of stage.*to which a copy is still under way: thread 0 .* at `cp.async.cg"
    for missing in (COMMIT, WAIT):
        with pytest.raises(PtxError, match=under_way):
            go(f"{COPY} {COMMIT} {WAIT} {OUT.format('r11')}".replace(missing, ""))
    with pytest.raises(PtxError, match="to which a copy is still under way"):
        go(f"{COPY} {COMMIT} bar.sync 0; {OUT.format('r12')}")
    with pytest.raises(PtxError, match=r"reads byte 16 of stage.*written without a barrier between: thread 1 "):
        go(f"{COPY} {COMMIT} {WAIT} {OUT.format('r12')}")


def test_a_barrier_before_the_wait_is_no_use() -> None:
    with pytest.raises(PtxError, match="written without a barrier between"):
        go(f"{COPY} {COMMIT} bar.sync 0; {WAIT} {OUT.format('r12')}")


def test_groups_end_in_their_order() -> None:
    stages = "".join(f"cp.async.cg.shared.global [r11+{1024 * i}], [d2], 16; {COMMIT}" for i in range(2))
    go(f"{stages} cp.async.wait_group 1; ld.shared.u32 r20, [r11];", threads=32)
    with pytest.raises(PtxError, match=r"reads byte 1024 of stage.*still under way"):
        go(f"{stages} cp.async.wait_group 1; ld.shared.u32 r20, [r11+1024];", threads=32)
    with pytest.raises(PtxError, match=r"reads byte 0 of stage.*still under way"):
        go(f"{stages} cp.async.wait_group 2; ld.shared.u32 r20, [r11];", threads=32)
    # Empty groups count too.
    go(f"{stages} {COMMIT} {COMMIT} cp.async.wait_group 2; ld.shared.u32 r20, [r11+1024];", threads=32)


def test_nothing_may_be_written_to_the_place_of_a_copy() -> None:
    for late in ("st.shared.u32 [r11], 0;", COPY):
        with pytest.raises(PtxError, match=r"(writes|copies to) byte 0 of stage.*still under way"):
            go(f"{COPY} {COMMIT} {late}")
        go(f"{COPY} {COMMIT} {WAIT} {late}")


def test_a_copy_must_not_overwrite_what_others_still_read() -> None:
    """Two stages in turn: without the barrier at the end, a copy begins while neighbours read the stage."""
    loop = f"""mov.u32 r30, 0; {COPY} {COMMIT}
    LOOP: {WAIT} bar.sync 0;
    ld.shared.u32 r20, [r12];
    {{barrier}}
    {COPY} {COMMIT}
    add.u32 r30, r30, 1; setp.lt.u32 p0, r30, 3; @p0 bra LOOP; {WAIT}
    """
    go(loop.format(barrier="bar.sync 0;"))
    with pytest.raises(PtxError, match=r"copies to byte 0 of stage.*was read without a barrier between: thread 1 "):
        go(loop.format(barrier=""))


def test_copies_are_bounded_and_aligned() -> None:
    with pytest.raises(PtxError, match="byte 1024 of param0, which has 1024"):
        go("cp.async.cg.shared.global [r11], [d2+16], 16;")
    with pytest.raises(PtxError, match="no multiple of 16"):
        go("cp.async.cg.shared.global [r11], [d2+8], 16;")
    with pytest.raises(PtxError, match="byte 2048 of stage"):
        go("cp.async.cg.shared.global [r11+1040], [d2], 16;")
    with pytest.raises(PtxError, match="no multiple of 16"):
        go("cp.async.cg.shared.global [r11+4], [d2], 16;")


def test_ldmatrix_and_copies_with_warp_barriers_in_a_ring() -> None:
    """Each warp fills its own two stages, one ahead, and reads rows of other lanes; only warp barriers between."""
    body = f"""
    and.b32 r2, r0, 31; mov.u32 r30, 0;
    cp.async.cg.shared.global [r11], [d2], 16; {COMMIT}
    LOOP:
    add.u32 r31, r30, 1; and.b32 r31, r31, 1; mad.lo.u32 r32, r31, 1024, r11;
    and.b32 r33, r30, 1; mad.lo.u32 r34, r33, 1024, r12;
    cp.async.cg.shared.global [r32], [d2], 16; {COMMIT}
    cp.async.wait_group 1; bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{{{r20, r21, r22, r23}}}}, [r34];
    {{warp}}
    add.u32 r30, r30, 1; setp.lt.u32 p0, r30, 4; @p0 bra LOOP; {WAIT}
    """
    go(body.format(warp="bar.warp.sync -1;"))
    with pytest.raises(PtxError, match=r"copies to byte .* of stage.*was read without a barrier between"):
        go(body.format(warp=""))
