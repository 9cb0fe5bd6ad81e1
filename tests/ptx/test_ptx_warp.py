"""What lanes of a warp do together, against the PTX ISA's definitions, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_error import PtxError
from ptx_snippet import kernel, launch

RNG = np.random.default_rng(6)
FULL = 0xFFFFFFFF
STORE = "ld.param.u64 d0, [param1]; mad.wide.u32 d0, r0, 4, d0; st.global.u32 [d0], r60;"
LOAD = "mov.u32 r0, %tid.x; ld.param.u64 d0, [param0]; mad.wide.u32 d0, r0, 4, d0; ld.global.u32 r1, [d0];"


def together(body: str, values: np.ndarray) -> np.ndarray:
    """`body` from r1 = values[tid], r0 = tid to r60, for one block."""
    out = np.zeros(len(values), np.uint32)
    launch(kernel(f"{LOAD}\n{body}\n{STORE}", "u64", "u64"), 1, len(values), values, out)
    return out


def shuffled(mode: str, values: np.ndarray, b: int, c: int) -> tuple[list[int], list[bool]]:
    """The PTX ISA's definition of shfl for one warp."""
    results, valid = [], []
    for lane in range(32):
        segment, clamp = c >> 8 & 31, c & 31
        most = (lane & segment) | (clamp & ~segment & 31)
        least = lane & segment
        if mode == "up":
            j = lane - b
            p = j >= most
        elif mode == "down":
            j = lane + b
            p = j <= most
        elif mode == "bfly":
            j = lane ^ b
            p = j <= most
        else:
            j = least | (b & ~segment & 31)
            p = j <= most
        results.append(int(values[j if p else lane]))
        valid.append(p)
    return results, valid


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8, 4])
@pytest.mark.parametrize("b", [0, 1, 3, 9, 16, 31])
def test_shuffles_in_segments(mode: str, width: int, b: int) -> None:
    values = RNG.integers(0, 2**32, 64).astype(np.uint32)
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    found = together(f"shfl.sync.{mode}.b32 r60|p1, r1, {b}, {c}, {FULL};", values)
    inside = together(f"shfl.sync.{mode}.b32 r59|p1, r1, {b}, {c}, {FULL}; selp.u32 r60, 1, 0, p1;", values)
    for warp in (0, 1):
        results, valid = shuffled(mode, values[32 * warp : 32 * warp + 32], b, c)
        assert found[32 * warp : 32 * warp + 32].tolist() == results
        assert inside[32 * warp : 32 * warp + 32].astype(bool).tolist() == valid


def test_shuffles_by_an_own_lane_number() -> None:
    values = RNG.integers(0, 2**32, 32).astype(np.uint32)
    found = together(f"xor.b32 r2, r0, 21; shfl.sync.idx.b32 r60, r1, r2, 31, {FULL};", values)
    assert found.tolist() == values[np.arange(32) ^ 21].tolist()


def test_a_shuffle_of_half_a_warp() -> None:
    body = """
    mov.u32 r60, r1; setp.ge.u32 p0, r0, 16; @p0 bra END;
    shfl.sync.bfly.b32 r60, r1, 1, 31, 0xFFFF;
    END:
    """
    values = np.arange(32, dtype=np.uint32)
    assert together(body, values).tolist() == [i ^ 1 for i in range(16)] + list(range(16, 32))


def test_a_lane_that_takes_no_part_is_not_a_source() -> None:
    body = """
    mov.u32 r60, r1; setp.ge.u32 p0, r0, 16; @p0 bra END;
    shfl.sync.bfly.b32 r60, r1, 16, 31, 0xFFFF;
    END:
    """
    with pytest.raises(PtxError, match="takes from lane 16, which does not take part"):
        together(body, np.arange(32, dtype=np.uint32))


def test_lanes_of_the_mask_have_to_come() -> None:
    body = f"""
    mov.u32 r60, r1; setp.ge.u32 p0, r0, 16; @p0 bra END;
    shfl.sync.bfly.b32 r60, r1, 1, 31, {FULL};
    END: bar.sync 0;
    """
    with pytest.raises(
        PtxError, match=r"16–31 wait at `bar.*; threads 0–15 wait for the other lanes of their warp at `shfl"
    ):
        together(body, np.arange(32, dtype=np.uint32))


def test_a_mask_without_the_lane_itself() -> None:
    with pytest.raises(PtxError, match="the mask 0x0000ffff leaves the thread itself out"):
        together("shfl.sync.bfly.b32 r60, r1, 1, 31, 0xFFFF;", np.arange(32, dtype=np.uint32))


def test_lanes_that_have_exited_are_not_waited_for() -> None:
    body = f"""setp.ge.u32 p0, r0, 20; @p0 exit; setp.ne.u32 p1, r1, 0;
    vote.sync.all.pred p2, p1, {FULL}; selp.u32 r60, 7, 0, p2;"""
    assert together(body, np.arange(1, 33, dtype=np.uint32)).tolist() == [7] * 20 + [0] * 12


def test_votes() -> None:
    values = np.concatenate([RNG.integers(0, 2, 32), np.ones(32), np.zeros(32)]).astype(np.uint32)
    ballot = together(f"setp.ne.u32 p0, r1, 0; vote.sync.ballot.b32 r60, p0, {FULL};", values)
    wanted = [sum(int(v) << i for i, v in enumerate(values[w : w + 32])) for w in (0, 32, 64)]
    assert ballot.tolist() == np.repeat(np.array(wanted, np.uint32), 32).tolist()
    for mode, result in (("all", [0, 1, 0]), ("any", [1, 1, 0]), ("uni", [0, 1, 1])):
        body = f"setp.ne.u32 p0, r1, 0; vote.sync.{mode}.pred p1, p0, {FULL}; selp.u32 r60, 1, 0, p1;"
        assert together(body, values)[::32].tolist() == result
    negated = together(f"setp.ne.u32 p0, r1, 0; vote.sync.any.pred p1, !p0, {FULL}; selp.u32 r60, 1, 0, p1;", values)
    assert negated[::32].tolist() == [1, 0, 1]


def test_matches() -> None:
    values = RNG.integers(0, 4, 64).astype(np.uint32)
    values[32:] = 9
    found = together(f"match.any.sync.b32 r60, r1, {FULL};", values)
    for lane in range(64):
        warp = values[lane // 32 * 32 : lane // 32 * 32 + 32]
        assert found[lane] == sum(int(v == values[lane]) << i for i, v in enumerate(warp))
    assert together(f"match.all.sync.b32 r60, r1, {FULL};", values)[::32].tolist() == [0, FULL]


@pytest.mark.parametrize(("name", "function"), [("add", np.sum), ("min", np.min), ("max", np.max)])
def test_reductions(name: str, function) -> None:
    values = RNG.integers(0, 2**31, 32).astype(np.uint32) << 1
    signed = values.view(np.int32)
    found = together(f"redux.sync.{name}.s32 r60, r1, {FULL};", values).view(np.int32)
    assert (found == np.int64(function(signed.astype(np.int64))).astype(np.int32)).all()
    low = together(f"mov.u32 r60, 0; setp.ge.u32 p0, r0, 4; @p0 bra E; redux.sync.{name}.u32 r60, r1, 15; E:", values)
    assert low[0] == np.uint64(function(values[:4].astype(np.uint64))) % 2**32


def test_one_lane_is_elected_and_lanes_know_themselves() -> None:
    values = np.zeros(64, np.uint32)
    elected = together(f"elect.sync r59|p0, {FULL}; selp.u32 r60, 1, 0, p0;", values)
    assert np.flatnonzero(elected).tolist() == [0, 32]
    assert together("mov.u32 r60, %laneid;", values).tolist() == [*range(32)] * 2
    assert together("mov.u32 r60, %warpid;", values).tolist() == [0] * 32 + [1] * 32
    assert together("mov.u32 r60, %lanemask_lt;", values).tolist() == [(1 << i) - 1 for i in range(32)] * 2
    active = together("setp.lt.u32 p0, r0, 5; mov.u32 r60, 1; @!p0 bra E; activemask.b32 r60; E:", values)
    assert active.tolist() == [31] * 5 + [1] * 59


def test_the_last_warp_of_a_block_may_be_shorter() -> None:
    values = np.arange(40, dtype=np.uint32)
    found = together(f"bar.warp.sync {FULL}; setp.lt.u32 p0, r1, 35; vote.sync.ballot.b32 r60, p0, {FULL};", values)
    assert found[[0, 39]].tolist() == [FULL, 7]
