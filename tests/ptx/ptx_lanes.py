"""The threads of a launch as one axis, and which of them an instruction runs for.

A lane is a thread of the blocks that run together; every block starts at a multiple of 32 lanes, so that 32 lanes in a
row are a warp. A block of 100 threads has 28 lanes that are no threads: they never run.
"""

from __future__ import annotations

import math

import numpy as np
from ptx_error import PtxError
from ptx_program import Instruction

WARP = 32
PARKED = np.int32(2**31 - 1)
"""The place of a lane that cannot run."""
RUNS, EXITED, AT_BARRIER, AT_WARP, AT_MBARRIER = range(5)
"""What a lane does."""
Dim = tuple[int, int, int]


class Lanes:
    """Blocks `first` … `first + blocks − 1` of a launch, the x index of a block running fastest.

    n: number of lanes; threads: of a block, padded: lanes of a block.
    """

    def __init__(self, grid: Dim, block: Dim, first: int, blocks: int) -> None:
        self.grid, self.block, self.first, self.blocks = grid, block, first, blocks
        self.threads = math.prod(block)
        self.warps = -(-self.threads // WARP)
        self.padded = self.warps * WARP
        self.n = blocks * self.padded
        self.thread = np.tile(np.arange(self.padded), blocks)
        self.block_of = np.repeat(np.arange(blocks), self.padded)
        self.exists = self.thread < self.threads
        self.index = np.flatnonzero(self.exists)
        self.gid = (first + self.block_of) * self.padded + self.thread
        """The number of a thread in the whole launch."""
        self._special: dict[str, np.ndarray] = {}

    def special(self, name: str, instruction: Instruction) -> np.ndarray:
        """The value of a special register in each lane, uint32 [n]."""
        if name not in self._special:
            self._special[name] = np.broadcast_to(self._value(name, instruction), self.n).astype(np.uint32)
        return self._special[name]

    def _value(self, name: str, instruction: Instruction) -> np.ndarray | int:
        base, _, axis = name[1:].partition(".")
        lane = self.thread % WARP
        thread, block = self.thread, self.first + self.block_of
        along = "xyz".find(axis) if axis else 0
        below = (1 << lane) - 1
        values = {
            "tid": lambda: _along(thread, self.block, along),
            "ntid": lambda: self.block[along],
            "ctaid": lambda: _along(block, self.grid, along),
            "nctaid": lambda: self.grid[along],
            "laneid": lambda: lane,
            "warpid": lambda: thread // WARP,
            "nwarpid": lambda: self.warps,
            "lanemask_eq": lambda: 1 << lane,
            "lanemask_lt": lambda: below,
            "lanemask_le": lambda: below | (1 << lane),
            "lanemask_gt": lambda: 0xFFFFFFFF ^ below ^ (1 << lane),
            "lanemask_ge": lambda: 0xFFFFFFFF ^ below,
            "cluster_ctaid": lambda: 0,
            "cluster_ctarank": lambda: 0,
            "cluster_nctaid": lambda: 1,
            "cluster_nctarank": lambda: 1,
            "clusterid": lambda: _along(block, self.grid, along),
            "nclusterid": lambda: self.grid[along],
            "is_explicit_cluster": lambda: 0,
        }
        if base not in values or along < 0:
            raise instruction.unknown(f"the interpreter does not know {name}")
        return values[base]()

    def name(self, gid: int) -> str:
        """A thread of the launch in words."""
        block, thread = divmod(int(gid), self.padded)
        numbers = [int(_along(block, self.grid, along)) for along in range(3)]
        if self.block[1] == self.block[2] == 1:
            return f"thread {thread} of block ({', '.join(map(str, numbers))})"
        inner = [int(_along(thread, self.block, along)) for along in range(3)]
        return f"thread ({', '.join(map(str, inner))}) of block ({', '.join(map(str, numbers))})"


def _along(number: np.ndarray | int, sizes: Dim, axis: int) -> np.ndarray | int:
    return number // math.prod(sizes[:axis]) % sizes[axis]


class Active:
    """The lanes that an instruction runs for, at least one.

    pick: what takes them out of an array of all lanes: None for all, a slice or an array of lanes. alu: the same for
    instructions that may as well compute for lanes that are no threads.
    """

    __slots__ = ("_bits", "_warps", "alu", "count", "index", "lanes", "pick")

    def __init__(self, lanes: Lanes, index: np.ndarray) -> None:
        self.lanes, self.index, self.count = lanes, index, len(index)
        first, last = int(index[0]), int(index[-1])
        self.pick: slice | np.ndarray | None = index
        if last - first + 1 == self.count:
            self.pick = None if self.count == lanes.n else slice(first, last + 1)
        self.alu = None if self.count == len(lanes.index) else self.pick
        self._bits: np.ndarray | None = None
        self._warps = 0

    @classmethod
    def repeated(cls, lanes: Lanes, index: np.ndarray) -> Active:
        """Lanes of which some may come several times, for accesses of one thread to several places."""
        active = cls.__new__(cls)
        active.lanes, active.index, active.count, active.pick, active.alu = lanes, index, len(index), index, index
        active._bits, active._warps = None, 0
        return active

    def take(self, array: np.ndarray) -> np.ndarray:
        """The values of these lanes out of an array over all lanes."""
        return array if self.pick is None else array[self.pick]

    def where(self, condition: np.ndarray, negated: bool = False) -> Active | None:
        """Those of them for which `condition`, over all lanes, holds; itself if all, None if none."""
        chosen = self.take(condition)
        count = int(np.count_nonzero(chosen))
        if negated:
            count = self.count - count
        if count == self.count:
            return self
        return Active(self.lanes, self.index[chosen ^ negated]) if count else None

    def among(self, chosen: np.ndarray) -> Active | None:
        """Those of them where `chosen`, over these lanes, is true."""
        count = int(np.count_nonzero(chosen))
        if count == self.count:
            return self
        return Active(self.lanes, self.index[chosen]) if count else None

    @property
    def bits(self) -> np.ndarray:
        """Of each warp the mask of its active lanes, uint32 [warps of all blocks]."""
        if self._bits is None:
            active = np.zeros(self.lanes.n, np.uint8)
            active[self.index] = 1
            packed = np.packbits(active.reshape(-1, WARP), axis=1, bitorder="little")
            self._bits = np.ascontiguousarray(packed).view(np.uint32).reshape(-1)
        return self._bits

    @property
    def warps(self) -> int:
        """How many warps have an active lane."""
        if not self._warps:
            self._warps = int(np.count_nonzero(self.bits))
        return self._warps

    @property
    def whole_warps(self) -> bool:
        """Whether all 32 lanes of each of these warps are active."""
        return self.count == WARP * self.warps

    @property
    def whole_blocks(self) -> bool:
        """Whether all threads of each of these blocks are active."""
        lanes = self.lanes
        if self.count == len(lanes.index):
            return True
        blocks = lanes.block_of[self.index]
        return self.count == lanes.threads * (1 + int(np.count_nonzero(np.diff(blocks))))


def check_launch(grid: Dim, block: Dim) -> None:
    """Raises PtxError for sizes that no GPU takes."""
    limits = (1024, 1024, 64)
    if any(size < 1 for size in (*grid, *block)) or math.prod(block) > 1024:
        raise PtxError(f"a launch of {grid} blocks of {block} threads: at least 1 of each, at most 1024 threads")
    if any(size > limit for size, limit in zip(block, limits, strict=True)) or max(grid[1:]) > 65535:
        raise PtxError(f"a launch of {grid} blocks of {block} threads is beyond the limits of a GPU")
