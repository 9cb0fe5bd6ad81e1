"""Which accesses to shared memory happen before which: the clocks of threads.

Every access leaves a tag: the clock of the thread, the instruction and the thread. A barrier of the whole block moves
all its clocks on; accesses with older clocks (below `base`) are over for everybody in the block. Barriers of some
threads, warp barriers and mbarriers order less: for them (`fine`) each thread keeps for every other one the clock below
which its accesses are known to be over, as vector clocks do.

A tag is an int64: clock << 40 | instruction << 24 | thread of the launch. −1 stands for "nobody".
"""

from __future__ import annotations

import numpy as np
from ptx_lanes import WARP, Active, Lanes

CLOCK, INSTRUCTION = 40, 24
THREAD = (1 << INSTRUCTION) - 1
SEVERAL = THREAD
"""The thread of a tag that stands for more than one."""
AGENT = THREAD - 1
"""The thread of a tag of what an mbarrier reports: a copy that no thread waits for by itself."""
AGENT_CLOCK = 1 << 22
"""Added to an agent's clock, so that no barrier of the block alone makes its writes visible."""
IN_FLIGHT = (1 << 23) - 1
"""The clock of a copy that nobody has waited for."""


class Clocks:
    """stamp: the clock of each lane; base, tag: it shifted to where tags have it, and with the thread.

    Arrays are replaced, never changed: whoever keeps one keeps what it was. `known` [block, thread, other thread] holds
    the clocks below which a thread knows the other's accesses to be over, its last column those of the agent.
    """

    def __init__(self, lanes: Lanes, *, fine: bool) -> None:
        self.lanes = lanes
        self.stamp = np.zeros(lanes.n, np.int64)
        self.base = np.zeros(lanes.n, np.int64)
        self.tag = lanes.gid.astype(np.int64)
        self.known = np.zeros((lanes.blocks, lanes.padded, lanes.padded + 1), np.int32) if fine else None

    def _set(self, pick, stamp: np.ndarray, *, everybody: bool) -> None:
        """New clocks for the lanes `pick`; everybody: of their blocks, so that what was before is over for all."""
        self.stamp = _with(self.stamp, pick, stamp)
        self.tag = _with(self.tag, pick, (stamp << CLOCK) | _take(self.lanes.gid, pick))
        if everybody:
            self.base = _with(self.base, pick, stamp << CLOCK)

    def whole_blocks(self, active: Active) -> None:
        """All threads of the blocks of `active` have met."""
        if self.known is None:
            self._set(active.pick, active.take(self.stamp) + 1, everybody=True)
            return
        lanes = self.lanes
        newest = self.stamp.reshape(lanes.blocks, -1).max(axis=1) + 1
        blocks = np.unique(lanes.block_of[active.index])
        self.known[blocks, :, -1] = self.known[blocks, :, -1].max(axis=1, keepdims=True)
        self._set(active.pick, newest[lanes.block_of[active.index]], everybody=True)

    def meet(self, index: np.ndarray) -> None:
        """These lanes, of one block, have met."""
        lanes = self.lanes
        block, threads = lanes.block_of[index[0]], lanes.thread[index]
        newest = int(self.stamp[index].max()) + 1
        joined = self.known[block, threads].max(axis=0)
        joined[threads] = newest
        self.known[block, threads] = joined
        self._set(index, np.full(len(index), newest), everybody=False)

    def meet_in_warps(self, active: Active) -> None:
        """In each warp the active lanes have met."""
        if not active.whole_warps:
            for warp in np.flatnonzero(active.bits):
                self.meet(active.index[active.index // WARP == warp])
            return
        lanes = self.lanes
        warps = active.index[::WARP] // WARP
        newest = self.stamp.reshape(-1, WARP)[warps].max(axis=1) + 1
        known = self.known.reshape(-1, WARP, lanes.padded + 1)
        joined = known[warps].max(axis=1)
        own = (warps % lanes.warps * WARP)[:, None] + np.arange(WARP)
        joined[np.arange(len(warps))[:, None], own] = newest[:, None]
        known[warps] = joined[:, None]
        self._set(active.pick, np.repeat(newest, WARP), everybody=False)

    def release(self, index: np.ndarray) -> np.ndarray:
        """What these lanes, of one block, know together, themselves too: to be published. Their clocks move on."""
        lanes = self.lanes
        block, threads = lanes.block_of[index[0]], lanes.thread[index]
        stamps = self.stamp[index] + 1
        self.known[block, threads, threads] = stamps
        self._set(index, stamps, everybody=False)
        return self.known[block, threads].max(axis=0)

    def acquire(self, index: np.ndarray, published: np.ndarray) -> None:
        """These lanes, of one block, learn what was published."""
        block, threads = self.lanes.block_of[index[0]], self.lanes.thread[index]
        self.known[block, threads] = np.maximum(self.known[block, threads], published)

    def before(self, index: np.ndarray, tags: np.ndarray) -> np.ndarray:
        """Whether each of these lanes knows the access of a tag to be over, beyond what `base` says. For one thread's
        tags, of the same block."""
        threads, stamps = tags & THREAD, tags >> CLOCK
        if self.known is None:
            return np.zeros(len(index), bool)
        agent = threads == AGENT
        column = np.where(agent, self.lanes.padded, threads % self.lanes.padded)
        stamps = stamps - np.where(agent, AGENT_CLOCK, 0)
        return self.known[self.lanes.block_of[index], self.lanes.thread[index], column] > stamps


def tag_of(clock: int, instruction: int, thread: int) -> int:
    return clock << CLOCK | instruction << INSTRUCTION | thread


def instruction_of(tag: int) -> int:
    return (int(tag) >> INSTRUCTION) & ((1 << (CLOCK - INSTRUCTION)) - 1)


def _take(array: np.ndarray, pick) -> np.ndarray:
    return array if pick is None else array[pick]


def _with(array: np.ndarray, pick, values: np.ndarray) -> np.ndarray:
    if pick is None:
        return np.array(values, np.int64)
    changed = array.copy()
    changed[pick] = values
    return changed
