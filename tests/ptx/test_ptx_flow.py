"""Branches that part threads and loops that end at different times; barriers; threads that wait for ever."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_run import run
from ptx_snippet import kernel, launch

STORE = "ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 4, d0; st.global.u32 [d0], r60;"
THREAD = "mov.u32 r0, %ctaid.x; mov.u32 r1, %ntid.x; mov.u32 r2, %tid.x; mad.lo.u32 r0, r0, r1, r2;"


def results(body: str, grid: int, block: int, **options) -> tuple[list[int], object]:
    """r60 of each thread, with r0 its number in the launch, r2 in its block; and the report."""
    out = np.zeros(grid * block, np.uint32)
    report = launch(kernel(f"{THREAD}\n{body}\n{STORE}", "u64", **options), grid, block, out)
    return out.tolist(), report


def test_nested_ways_meet_again() -> None:
    body = """
    mov.u32 r60, 0;
    and.b32 r3, r0, 1; setp.eq.u32 p0, r3, 0;
    @p0 bra EVEN;
    add.u32 r60, r60, 1;
    and.b32 r3, r0, 2; setp.eq.u32 p1, r3, 0;
    @p1 bra ODD_LOW;
    add.u32 r60, r60, 10;
    bra.uni ODD_END;
    ODD_LOW: add.u32 r60, r60, 20;
    ODD_END: add.u32 r60, r60, 100;
    bra.uni END;
    EVEN: add.u32 r60, r60, 2;
    END: add.u32 r60, r60, 1000;
    """
    found, report = results(body, 3, 64)
    wanted = {0: 1002, 1: 1121, 2: 1002, 3: 1111}
    assert found == [wanted[i % 4] for i in range(192)]
    # What follows the branches runs once for each warp, not once for each way.
    assert report.count("st.global") == 6
    assert report.count("add.u32") == 6 * (1 + 1 + 1 + 1 + 1 + 1)


def test_loops_of_different_lengths_run_together_as_long_as_they_last() -> None:
    body = """
    mov.u32 r60, 0; rem.u32 r3, r0, 7; mov.u32 r4, 0;
    OUTER: setp.ge.u32 p0, r4, r3; @p0 bra DONE;
    mov.u32 r5, 0;
    INNER: add.u32 r60, r60, 1; add.u32 r5, r5, 1; setp.le.u32 p1, r5, r4; @p1 bra INNER;
    add.u32 r4, r4, 1; bra.uni OUTER;
    DONE: add.u32 r60, r60, 5;
    """
    found, report = results(body, 2, 96)
    assert found == [sum(k + 1 for k in range(i % 7)) + 5 for i in range(192)]
    assert report.counts["st.global.u32"] == 6
    assert report.counts["bra.uni"] == 6 * 6


def test_a_table_of_targets() -> None:
    body = """
    and.b32 r3, r0, 3; min.u32 r3, r3, 2;
    TARGETS: .branchtargets L0, L1, L2;
    brx.idx r3, TARGETS;
    L0: mov.u32 r60, 5; bra END;
    L1: mov.u32 r60, 6; bra END;
    L2: mov.u32 r60, 7;
    END:
    """
    assert results(body, 1, 32)[0] == [5, 6, 7, 7] * 8


def test_threads_leave_early() -> None:
    body = "mov.u32 r60, 3; and.b32 r3, r0, 4; setp.eq.u32 p0, r3, 0; @p0 ret;"
    assert results(body, 2, 48)[0] == [3 if i & 4 else 0 for i in range(96)]


def test_a_kernel_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    import ptx_launch

    monkeypatch.setattr(ptx_launch, "MOST_BLOCKS", 1000)
    with pytest.raises(PtxError, match="does not end"):
        results("mov.u32 r60, 0; AGAIN: add.u32 r60, r60, 1; bra AGAIN;", 1, 32)


BUFFER = ".shared .align 4 .b32 cell[256];"
MINE = "mov.u32 r10, cell; mad.lo.u32 r11, r2, 4, r10;"


def test_a_barrier_of_the_block() -> None:
    """Each thread reads what another warp wrote; the second round must not overwrite what is still read."""
    body = f"""{MINE}
    st.shared.u32 [r11], r0;
    bar.sync 0;
    sub.u32 r3, 127, r2; mad.lo.u32 r12, r3, 4, r10; ld.shared.u32 r60, [r12];
    """
    assert results(body, 3, 128, arrays=BUFFER)[0] == [128 * (i // 128) + 127 - i % 128 for i in range(384)]


def test_barriers_with_numbers_and_counts_are_for_some_warps() -> None:
    """Warps 0 and 1 meet at barrier 1, warps 2 and 3 at barrier 2, in loops of their own lengths."""
    body = f"""{MINE}
    shr.u32 r3, r2, 6; add.u32 r4, r3, 1; mul.lo.u32 r5, r3, 3; add.u32 r5, r5, 2; mov.u32 r60, 0;
    xor.b32 r6, r2, 32; mad.lo.u32 r12, r6, 4, r10;
    LOOP: add.u32 r7, r60, r2; st.shared.u32 [r11], r7;
    bar.sync r4, 64;
    ld.shared.u32 r60, [r12];
    bar.sync r4, 64;
    sub.u32 r5, r5, 1; setp.ne.u32 p0, r5, 0; @p0 bra LOOP;
    """
    found, _ = results(body, 2, 128, arrays=BUFFER)
    for i in range(256):
        t, wanted = i % 128, 0
        state = np.zeros(128, int)
        for _ in range(2 if t < 64 else 5):
            state = (state + np.arange(128))[np.arange(128) ^ 32]
        wanted = state[t]
        assert found[i] == wanted


def test_producers_arrive_and_do_not_wait() -> None:
    body = f"""{MINE}
    mov.u32 r60, 0; setp.lt.u32 p0, r2, 32; @p0 bra CONSUMER;
    st.shared.u32 [r11+-128], r2;
    bar.arrive 3, 64;
    bra END;
    CONSUMER:
    bar.sync 3, 64;
    ld.shared.u32 r60, [r11];
    END:
    """
    assert results(body, 1, 64, arrays=BUFFER)[0] == [*range(32, 64), *[0] * 32]
    with pytest.raises(PtxError, match="written without a barrier between"):
        results(
            body.replace("bar.arrive 3, 64;\n", "").replace("bar.sync 3, 64;", "bar.sync 3, 32;"), 1, 64, arrays=BUFFER
        )


@pytest.mark.parametrize(("operation", "wanted"), [("popc.u32", 40), ("and.pred", 0), ("or.pred", 1)])
def test_a_barrier_that_votes(operation: str, wanted: int) -> None:
    if operation == "popc.u32":
        body = "setp.lt.u32 p0, r2, 40; barrier.red.popc.u32 r60, 0, p0;"
    else:
        body = f"setp.lt.u32 p0, r2, 40; bar.red.{operation} p1, 0, p0; selp.u32 r60, 1, 0, p1;"
    assert results(body, 2, 64)[0] == [wanted] * 128


def test_a_count_of_warps_takes_a_shorter_last_warp() -> None:
    assert results("mov.u32 r60, 5; bar.sync 1, 128;", 2, 100)[0] == [5] * 200


def test_who_waits_where_is_said() -> None:
    body = "setp.lt.u32 p0, r2, 32; mov.u32 r60, 0; @p0 bra ONE; bar.sync 1; bra END; ONE: bar.sync 2; END:"
    with pytest.raises(PtxError, match=r"threads 32–63 wait at `bar.sync 1`.*; threads 0–31 wait at `bar.sync 2`"):
        results(body, 1, 64)


def test_a_barrier_that_some_threads_leave_out() -> None:
    body = "setp.ge.u32 p0, r2, 96; mov.u32 r60, 0; @p0 ret; bar.sync 0;"
    with pytest.raises(PtxError, match=r"threads 96–127 have exited; threads 0–95 wait at `bar.sync 0`"):
        results(body, 2, 128)
    results(body.replace("bar.sync 0;", "bar.sync 0, 96;"), 2, 128)


def test_a_warp_has_to_be_at_one_barrier() -> None:
    body = "setp.lt.u32 p0, r2, 16; mov.u32 r60, 0; @p0 bra ONE; bar.sync 0; bra END; ONE: bar.sync 0; END:"
    with pytest.raises(PtxError, match="all 32 threads of a warp must be at the same barrier"):
        results(body, 1, 64)


def test_counts_of_a_barrier_have_to_agree() -> None:
    body = "setp.lt.u32 p0, r2, 32; mov.u32 r60, 0; @p0 bra ONE; bar.sync 1, 64; bra END; ONE: bar.sync 1, 32; END:"
    with pytest.raises(PtxError, match="others came to the barrier for 64 threads, not 32"):
        results(body, 1, 64)
    with pytest.raises(PtxError, match="whole warps"):
        results("mov.u32 r60, 0; mov.u32 r9, 40; bar.sync 1, r9;", 1, 64)


def test_a_register_that_only_some_have_written() -> None:
    body = "setp.lt.u32 p0, r2, 8; @!p0 bra SKIP; mov.u32 r9, 1; SKIP: mov.u32 r60, 2; {use}"
    assert results(body.format(use="@p0 add.u32 r60, r9, 1;"), 1, 32)[0] == [2] * 32
    with pytest.raises(
        PtxError, match=r"`add.u32 r60, r9, 1`.*thread 8 .*reads the register r9, which the thread has not written"
    ):
        results(body.format(use="add.u32 r60, r9, 1;"), 1, 32)


def test_a_trap_is_an_error_and_so_is_what_is_unknown() -> None:
    with pytest.raises(PtxError, match=r"thread 3 .*the kernel stops itself"):
        results("mov.u32 r60, 0; setp.eq.u32 p0, r2, 3; @p0 trap;", 1, 32)
    with pytest.raises(PtxError, match=r"does not know this instruction: `vadd.*line 14"):
        run(kernel("vadd.s32.s32.s32 r1, r2, r3;"), 1, 32)
    for bad in ("add.sat.u32 r1, r2, r3", "cvt.rn.f16x2.f64 r1, g1, g2", "ld.global.f32.v3 f1, [d0]", "mma.m8n8k4 r1"):
        with pytest.raises(PtxError, match=bad.split()[0]):
            run(kernel(f"{bad};"), 1, 32)
