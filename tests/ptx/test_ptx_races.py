"""Shared memory: bounds, bytes that nobody wrote, and accesses in no order. Each beside a kernel that is in order."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

ARRAYS = ".shared .align 16 .b8 left[512]; .shared .align 16 .b8 right[512];"
BEFORE = """
    mov.u32 r0, %tid.x; shr.u32 r1, r0, 5; mov.u32 r10, left; mov.u32 r20, right;
    mad.lo.u32 r11, r0, 4, r10; mad.lo.u32 r21, r0, 4, r20;
    xor.b32 r2, r0, 1; mad.lo.u32 r12, r2, 4, r10; xor.b32 r3, r0, 32; mad.lo.u32 r13, r3, 4, r10;
"""
"""r11: the thread's own word of `left`; r12: its neighbour's; r13: that of a thread of the other warp."""


def go(body: str, threads: int = 64, blocks: int = 2, arrays: str = ARRAYS) -> None:
    launch(kernel(BEFORE + body, arrays=arrays), blocks, threads)


PAIRS = {
    "beyond an array": (
        "st.shared.u32 [r11+256], r0;",
        "st.shared.u32 [r11+260], r0;",
        "thread 63 .*4 bytes at byte 512 of left, which has 512 are outside of shared memory",
    ),
    "before an array": (
        "st.shared.u32 [r11], r0;",
        "st.shared.u32 [r11+-4], r0;",
        "thread 0 .*are outside of shared memory",
    ),
    "not aligned": (
        "st.shared.u32 [r11], r0; ld.shared.v2.u16 {h1, h2}, [r11];",
        "st.shared.u32 [r11], r0; ld.shared.v2.u32 {r4, r5}, [r11];",
        "thread 1 .*no multiple of 8",
    ),
    "nobody has written": (
        "st.shared.u32 [r11], r0; ld.shared.u32 r4, [r11];",
        "st.shared.u32 [r11], r0; ld.shared.u32 r4, [r21];",
        "thread 0 .*reads byte 0 of right, which has 512, which nobody has written",
    ),
    "half of it written": (
        "st.shared.u16 [r11], h0; st.shared.u16 [r11+2], h0; ld.shared.u32 r4, [r11];",
        "st.shared.u16 [r11], h0; ld.shared.u32 r4, [r11];",
        "reads byte 2 of left, which has 512, which nobody has written",
    ),
    "read after write, other warp": (
        "st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r13];",
        "st.shared.u32 [r11], r0; ld.shared.u32 r4, [r13];",
        r"thread 0 .*reads byte 128 of left.*without a barrier between: thread 32 of block \(0, 0, 0\) at `st.sh",
    ),
    "read after write, same warp": (
        "st.shared.u32 [r11], r0; bar.warp.sync 0xffffffff; ld.shared.u32 r4, [r12];",
        "st.shared.u32 [r11], r0; ld.shared.u32 r4, [r12];",
        "thread 0 .*reads byte 4 of left.*without a barrier between: thread 1 ",
    ),
    "a warp's barrier orders no other warp": (
        "st.shared.u32 [r11], r0; bar.warp.sync 0xffffffff; bar.sync 0; ld.shared.u32 r4, [r13];",
        "st.shared.u32 [r11], r0; bar.warp.sync 0xffffffff; ld.shared.u32 r4, [r13];",
        "thread 0 .*reads byte 128 of left.*without a barrier between: thread 32 ",
    ),
    "write after read, other warp": (
        "st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r13]; bar.sync 0; st.shared.u32 [r11], r4;",
        "st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r13]; st.shared.u32 [r11], r4;",
        "thread 0 .*writes byte 0 of left.*was read without a barrier between: thread 32 .* at `ld.shared",
    ),
    "write after read, same warp": (
        "st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r12]; bar.warp.sync -1; st.shared.u32 [r11], r4;",
        "st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r12]; st.shared.u32 [r11], r4;",
        "thread 0 .*writes byte 0 of left.*was read without a barrier between: thread 1 ",
    ),
    "write after reads of a warp, with warp barriers": (
        """st.shared.u32 [r11], r0; bar.warp.sync -1; bar.sync 0; ld.shared.u32 r4, [r10]; bar.sync 0;
        setp.eq.u32 p0, r0, 32; @p0 st.shared.u32 [r10], r4;""",
        """st.shared.u32 [r11], r0; bar.sync 0; ld.shared.u32 r4, [r10]; bar.warp.sync -1;
        setp.eq.u32 p0, r0, 32; @p0 st.shared.u32 [r10], r4;""",
        "thread 32 .*writes byte 0 of left.*was read without a barrier between: thread 0 ",
    ),
    "write after write": (
        "st.shared.u32 [r11], r0; bar.sync 0; st.shared.u32 [r13], r0;",
        "st.shared.u32 [r11], r0; st.shared.u32 [r13], r0;",
        "thread 0 .*writes byte 128 of left.*written without a barrier between: thread 32 ",
    ),
    "two threads in one instruction": (
        "and.b32 r4, r0, 63; mad.lo.u32 r5, r4, 4, r10; st.shared.u32 [r5], r0;",
        "and.b32 r4, r0, 31; mad.lo.u32 r5, r4, 4, r10; st.shared.u32 [r5], r0;",
        "writes byte 0 of left.*written in the same instruction: thread",
    ),
    "a vector over a neighbour's word": (
        "mad.lo.u32 r5, r0, 8, r10; st.shared.v2.u32 [r5], {r0, r0}; ld.shared.u32 r4, [r5+4];",
        """st.shared.u32 [r11], r0; and.b32 r6, r0, 62; mad.lo.u32 r5, r6, 4, r10;
        ld.shared.v2.u32 {r4, r5}, [r5];""",
        "thread 0 .*reads byte 4 of left.*without a barrier between: thread 1 ",
    ),
    "several readers": (
        """setp.eq.u32 p0, r0, 0; @p0 st.shared.u32 [r10], r0; bar.sync 0; ld.shared.u32 r4, [r10];
        bar.sync 0; @p0 st.shared.u32 [r10], r4;""",
        """setp.eq.u32 p0, r0, 0; @p0 st.shared.u32 [r10], r0; bar.sync 0; ld.shared.u32 r4, [r10];
        @p0 st.shared.u32 [r10], r4;""",
        "thread 0 .*writes byte 0 of left.*was read without a barrier between: several threads",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_order(case: str) -> None:
    good, bad, message = PAIRS[case]
    first = "mov.u16 h0, 1;"
    go(first + good)
    with pytest.raises(PtxError, match=message):
        go(first + bad)


def test_reads_of_many_instructions_are_not_forgotten() -> None:
    """More reads than are kept one by one, before a write of what the first of them read."""
    reads = "".join("ld.shared.u32 r4, [r13];" for _ in range(150))
    before = f"st.shared.u32 [r11], r0; bar.sync 0; {reads}"
    go(f"{before} bar.sync 0; st.shared.u32 [r11], r4;")
    with pytest.raises(PtxError, match="was read without a barrier between: thread 32"):
        go(f"{before} st.shared.u32 [r11], r4;")


def test_an_old_write_does_not_hide_in_other_blocks() -> None:
    """Blocks are at different barriers: block 1 has one more."""
    body = """mov.u32 r9, %ctaid.x; setp.eq.u32 p0, r9, 1; st.shared.u32 [r11], r0;
    bar.sync 0; @!p0 bra ON; bar.sync 0; ON: ld.shared.u32 r4, [r13]; {end} st.shared.u32 [r11], r4;"""
    go(body.format(end="bar.sync 0;"), blocks=3)
    with pytest.raises(PtxError, match=r"block \(0, 0, 0\): writes byte 0 of left"):
        go(body.format(end=""), blocks=3)


def test_each_block_has_its_own() -> None:
    """What block 0 wrote is not there for block 1, even where they run one after the other."""
    body = """mov.u32 r9, %ctaid.x; setp.eq.u32 p0, r9, 1; @p0 bra ON; st.shared.u32 [r11], r0;
    ON: ld.shared.u32 r4, [r11];"""
    go(body, blocks=1)
    with pytest.raises(PtxError, match=r"block \(1, 0, 0\).*nobody has written"):
        go(body, blocks=2)


def test_dynamic_shared_memory() -> None:
    text = kernel(
        "mov.u32 r0, %tid.x; mov.u32 r1, dynamic; mad.lo.u32 r2, r0, 4, r1; st.shared.u32 [r2], r0;",
        module=".extern .shared .align 16 .b8 dynamic[];",
    )
    launch(text, 2, 64, dynamic=256)
    with pytest.raises(PtxError, match="byte 252 of dynamic, which has 252"):
        launch(text, 2, 64, dynamic=252)
    with pytest.raises(PtxError, match="outside of shared memory"):
        launch(text, 2, 64)


def test_a_full_array_of_random_traffic_in_order() -> None:
    """Rounds of writes to random places of one's own and reads of anybody's, with barriers: no false alarm."""
    rng = np.random.default_rng(10)
    rounds = []
    for _ in range(30):
        offset = int(rng.integers(0, 64))
        rounds.append(
            f"""add.u32 r4, r0, {offset}; and.b32 r4, r4, 63;
            mad.lo.u32 r5, r4, 4, r10; st.shared.u32 [r5], r0; bar.sync 0;
            xor.b32 r4, r0, {offset}; mad.lo.u32 r5, r4, 4, r10; ld.shared.u32 r6, [r5]; bar.sync 0;"""
        )
    go("".join(rounds))
