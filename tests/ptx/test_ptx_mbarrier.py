"""mbarriers: arrivals, phases, bytes of bulk copies, and the order that they make."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

ARRAYS = ".shared .align 16 .b8 stage[2048]; .shared .align 8 .b64 full[4]; .shared .align 8 .b64 empty[4];"
BEFORE = """
    mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; ld.param.u64 d1, [param1]; mad.wide.u32 d3, r0, 4, d1;
    mov.u32 r10, stage; mad.lo.u32 r11, r0, 4, r10; mov.u32 r14, full; mov.u32 r15, empty;
    setp.eq.u32 p0, r0, 0;
"""


def go(body: str, threads: int = 64, blocks: int = 1, size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    data = np.random.default_rng(12).integers(0, 2**32, size).astype(np.uint32)
    out = np.zeros(size, np.uint32)
    launch(kernel(BEFORE + body, "u64", "u64", arrays=ARRAYS), blocks, threads, data, out)
    return data, out


INIT = "@p0 mbarrier.init.shared::cta.b64 [r14], {count}; bar.sync 0;"
WAIT = "{label}: mbarrier.try_wait.parity.shared::cta.b64 p5, [{at}], {parity}; @!p5 bra {label};"


def test_threads_wait_until_all_have_arrived() -> None:
    body = f"""{INIT.format(count=64)} st.shared.u32 [r11], r0;
    mbarrier.arrive.shared::cta.b64 d5, [r14];
    {{wait}}
    xor.b32 r2, r0, 63; mad.lo.u32 r3, r2, 4, r10; ld.shared.u32 r4, [r3]; st.global.u32 [d3], r4;
    """
    by_parity = WAIT.format(label="L", at="r14", parity=0)
    by_state = "L: mbarrier.test_wait.shared::cta.b64 p5, [r14], d5; @!p5 bra L;"
    for wait in (by_parity, by_state):
        _, out = go(body.format(wait=wait))
        assert out[:64].tolist() == [i ^ 63 for i in range(64)]
    with pytest.raises(PtxError, match=r"reads byte 252 of stage.*written without a barrier between: thread 63 "):
        go(body.format(wait=""))
    # The phase before the first counts as complete: who waits for it does not wait.
    go(INIT.format(count=64) + WAIT.format(label="L", at="r14", parity=1))


def test_an_arrival_that_is_missing_is_a_deadlock() -> None:
    arrive, wait = "mbarrier.arrive.shared::cta.b64 _, [r14];", WAIT.format(label="L", at="r14", parity=0)
    body = f"{INIT.format(count=65)} {arrive} {wait}"
    with pytest.raises(
        PtxError, match=r"no thread of the block can go on: threads 0–63 wait for the phase at `mbarrier.try_wait"
    ):
        go(body)
    go(body.replace("65;", "64;"))


def test_counts_of_arrivals_and_too_many_of_them() -> None:
    wait = WAIT.format(label="L", at="r14", parity=0)
    go(f"{INIT.format(count=128)} mbarrier.arrive.shared::cta.b64 _, [r14], 2; {wait}")
    with pytest.raises(PtxError, match="arrivals more than the mbarrier's phase waits for"):
        go(f"{INIT.format(count=3)} @p0 mbarrier.arrive.shared::cta.b64 _, [r14], 4;")


def test_use_needs_an_initialisation_before_a_barrier() -> None:
    use = "mbarrier.arrive.shared::cta.b64 _, [r14];"
    with pytest.raises(PtxError, match="nobody has written"):
        go(use)
    with pytest.raises(PtxError, match=r"updates byte 0 of full.*written without a barrier between: thread 0 "):
        go(INIT.format(count=64).replace("bar.sync 0;", "") + use)
    go(INIT.format(count=64) + use)
    with pytest.raises(PtxError, match="there is no mbarrier at byte 8 of full"):
        go(INIT.format(count=64) + "@p0 st.shared.u64 [r14+8], d0; bar.sync 0;" + use.replace("[r14]", "[r14+8]"))


BULK = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r10], [d0], 1024, [r14];"
EXPECT = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [r14], {bytes};"


def test_a_bulk_copy_is_there_when_the_phase_is_complete() -> None:
    body = f"""{INIT.format(count=1)}
    @!p0 bra REST; {EXPECT.format(bytes="{bytes}")} {BULK} REST:
    {{wait}} ld.shared.u32 r4, [r11]; st.global.u32 [d3], r4;
    """
    wait = WAIT.format(label="L", at="r14", parity=0)
    data, out = go(body.format(bytes=1024, wait=wait), threads=256, blocks=1)
    np.testing.assert_array_equal(out[:256], data[:256])
    with pytest.raises(
        PtxError, match=r"reads byte 0 of stage.*in no order|without a barrier between: a copy that an mbarrier"
    ):
        go(body.format(bytes=1024, wait="bar.sync 0;"), threads=256)
    with pytest.raises(PtxError, match="wait for the phase"):  # more bytes are expected than come
        go(body.format(bytes=1040, wait=wait), threads=256)
    with pytest.raises(PtxError, match="still under way"):
        go(body.format(bytes=1040, wait=""), threads=256)


def test_bulk_copies_are_bounded_and_in_order_with_writes() -> None:
    begin = f"{INIT.format(count=1)} @!p0 bra REST; {EXPECT.format(bytes=1024)}"
    with pytest.raises(PtxError, match="of param0, which has 1000"):
        go(f"{begin} {BULK} REST:", size=250)
    with pytest.raises(PtxError, match="no multiple of 16"):
        go(f"{begin} {BULK.replace('[d0]', '[d0+8]')} REST:")
    with pytest.raises(PtxError, match="a multiple of 16 bytes"):
        go(f"{begin} mov.u32 r9, 1020; {BULK.replace('1024', 'r9')} REST:")
    with pytest.raises(PtxError, match=r"copies to byte 4 of stage.*written without a barrier between: thread 1 "):
        go(f"{INIT.format(count=1)} st.shared.u32 [r11], r0; @!p0 bra REST; {EXPECT.format(bytes=1024)} {BULK} REST:")
    go(f"st.shared.u32 [r11], r0; {begin} {BULK} REST:")


RING = f"""
    @!p0 bra GO;
    mbarrier.init.shared::cta.b64 [r14], 1; mbarrier.init.shared::cta.b64 [r14+8], 1;
    mbarrier.init.shared::cta.b64 [r15], 2; mbarrier.init.shared::cta.b64 [r15+8], 2;
    fence.mbarrier_init.release.cluster;
    GO: bar.sync 0;
    mov.u32 r30, 0; shr.u32 r2, r0, 5; setp.eq.u32 p1, r2, 0; @!p1 bra CONSUMER;
    @!p0 bra END;
    PRODUCE:
    and.b32 r31, r30, 1; shr.u32 r32, r30, 1; and.b32 r32, r32, 1; xor.b32 r33, r32, 1;
    mad.lo.u32 r34, r31, 8, r14; mad.lo.u32 r35, r31, 8, r15; mad.lo.u32 r36, r31, 256, r10;
    {{wait_empty}}
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [r34], 256;
    mul.wide.u32 d6, r30, 256; add.u64 d6, d0, d6;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [r36], [d6], 256, [r34];
    add.u32 r30, r30, 1; setp.lt.u32 p2, r30, 8; @p2 bra PRODUCE; bra END;
    CONSUMER:
    sub.u32 r20, r0, 32; and.b32 r21, r0, 31; setp.eq.u32 p3, r21, 0;
    CONSUME:
    and.b32 r31, r30, 1; shr.u32 r32, r30, 1; and.b32 r32, r32, 1;
    mad.lo.u32 r34, r31, 8, r14; mad.lo.u32 r35, r31, 8, r15; mad.lo.u32 r36, r31, 256, r10;
    {WAIT.format(label="FULL", at="r34", parity="r32")}
    mad.lo.u32 r37, r20, 4, r36; ld.shared.u32 r4, [r37];
    {{sync}}
    @p3 mbarrier.arrive.shared::cta.b64 _, [r35];
    mad.lo.u32 r38, r30, 64, r20; mul.wide.u32 d6, r38, 4; add.u64 d6, d1, d6; st.global.u32 [d6], r4;
    add.u32 r30, r30, 1; setp.lt.u32 p2, r30, 8; @p2 bra CONSUME;
    END:
"""
"""Warp 0 copies 8 pieces of 256 bytes into two stages; warps 1 and 2 take them out and say so, one lane each."""


def test_a_ring_of_stages_between_a_producer_and_consumers() -> None:
    wait = WAIT.format(label="EMPTY", at="r35", parity="r33")
    data, out = go(RING.format(wait_empty=wait, sync="bar.warp.sync -1;"), threads=96)
    np.testing.assert_array_equal(out, data)
    with pytest.raises(PtxError, match=r"copies to byte .* of stage.*was (read|written) without a barrier between"):
        go(RING.format(wait_empty="", sync="bar.warp.sync -1;"), threads=96)
    with pytest.raises(PtxError, match="was read without a barrier between"):  # the lane speaks for others too early
        go(RING.format(wait_empty=wait, sync=""), threads=96)


def test_own_copies_tell_an_mbarrier() -> None:
    body = f"""{INIT.format(count=64)} mad.wide.u32 d2, r0, 4, d0;
    cp.async.ca.shared.global [r11], [d2], 4; cp.async.mbarrier.arrive.noinc.shared::cta.b64 [r14];
    {{wait}} xor.b32 r2, r0, 63; mad.lo.u32 r3, r2, 4, r10; ld.shared.u32 r4, [r3]; st.global.u32 [d3], r4;
    """
    data, out = go(body.format(wait=WAIT.format(label="L", at="r14", parity=0)))
    np.testing.assert_array_equal(out[:64], data[np.arange(64) ^ 63])
    with pytest.raises(PtxError, match="without a barrier between: a copy that an mbarrier reports"):
        go(body.format(wait="bar.sync 0;"))


def test_expectations_may_come_alone_and_barriers_may_end() -> None:
    body = f"""{INIT.format(count=2)} @!p0 bra REST;
    mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [r14], 1024; {BULK}
    mbarrier.arrive.release.cta.shared::cta.b64 d5, [r14]; mbarrier.arrive_drop.shared::cta.b64 _, [r14];
    REST: {WAIT.format(label="L", at="r14", parity=0)} ld.shared.u32 r4, [r11]; bar.sync 0;
    @p0 mbarrier.arrive.shared::cta.b64 _, [r14];
    {WAIT.format(label="M", at="r14", parity=1)} bar.sync 0; @p0 mbarrier.inval.shared::cta.b64 [r14];
    """
    go(body)


def test_generic_addresses_of_mbarriers() -> None:
    body = """cvt.u64.u32 d4, r14; cvta.shared.u64 d4, d4; @p0 mbarrier.init.b64 [d4], 64; bar.sync 0;
    mbarrier.arrive.b64 d5, [d4]; L: mbarrier.test_wait.b64 p5, [d4], d5; @!p5 bra L;"""
    go(body)
