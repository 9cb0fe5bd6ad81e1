"""The random rotation on CUDA: a warp turns a vector in registers, as a butterfly over the lanes and within a lane.

For head_dims that are powers of two from 32 to 512, where a round is signs and a Hadamard matrix (`codec.rotation`).
Lane l holds the dims l·E … l·E + E − 1, E = head_dim / 32. Decode, append and the kernel here share `WarpRotation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec import rotation
from tqc.schedules.cuda_builder import (
    argument,
    blocks,
    build_kernel,
    dimension,
    f32,
    i32,
    i64,
    store,
    threads,
    to,
    when,
)
from tqc.schedules.cuda_codes import pick
from tqc.schedules.cuda_ptx import WARP, from_lane, hold, registers, u32

_THREADS = 128


@dataclass(frozen=True)
class Turn:
    """A rotation that a kernel does itself: its seed and its rounds."""

    seed: int = 0
    rounds: int = 1


def can_rotate(head_dim: int) -> bool:
    """Whether `WarpRotation` takes vectors of this length."""
    return WARP <= head_dim <= 512 and head_dim & (head_dim - 1) == 0


@dataclass
class WarpRotation:
    """Π·x, or Πᵀ·x if `inverse`, of one vector in the registers of a warp.

    To be made once a kernel, outside of loops: it holds each lane's signs. `scale`: a factor of the result.
    """

    head_dim: int
    lane: Expr
    seed: int = 0
    rounds: int = 1
    inverse: bool = False
    scale: float = 1.0
    _flips: list[Expr] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.size = self.head_dim // WARP
        self._other = registers("from_other", 1)
        self._next = registers("butterfly", self.size)
        for signs, _ in rotation.factors(self.head_dim, self.seed, self.rounds):
            negative = (signs < 0).reshape(WARP, self.size)
            words = [u32(int(sum(int(bit) << e for e, bit in enumerate(row)))) for row in negative]
            self._flips.append(hold(pick(words, self.lane)))

    def dim(self, e: int) -> Expr:
        """The dim that register e holds."""
        return self.lane * self.size + e

    def apply(self, values: Buffer) -> None:
        """Turns `values`, E registers, in place."""
        rounds = list(enumerate(self._flips))
        factor = self.head_dim**-0.5
        for number, flips in reversed(rounds) if self.inverse else rounds:
            last = number == (0 if self.inverse else len(rounds) - 1)
            if not self.inverse:
                self._flip(values, flips)
            self._butterfly(values)
            for e in range(self.size):
                store(values, values[e] * f32(factor * (self.scale if last else 1.0)), e)
            if self.inverse:
                self._flip(values, flips)

    def _flip(self, values: Buffer, flips: Expr) -> None:
        for e in range(self.size):
            bits = tirx.reinterpret("uint32", values[e]) ^ ((flips << u32(31 - e)) & u32(1 << 31))
            store(values, tirx.reinterpret("float32", bits), e)

    def _butterfly(self, values: Buffer) -> None:
        stride = 1
        while stride < self.size:
            for e in range(self.size):
                pair = values[e ^ stride]
                store(self._next, pair - values[e] if e & stride else values[e] + pair, e)
            for e in range(self.size):
                store(values, self._next[e], e)
            stride *= 2
        for mask in (1, 2, 4, 8, 16):
            upper = hold(tirx.Select(tirx.NE(self.lane & mask, i32(0)), f32(-1.0), f32(1.0)))
            for e in range(self.size):
                from_lane(self._other[0], values[e], mask)
                store(values, values[e] * upper + self._other[0], e)


def make_rotate(
    leading: int, head_dim: int, dtype: str, *, seed: int = 0, rounds: int = 1, inverse: bool = False
) -> tirx.PrimFunc:
    """rotate(x [..., D], y [..., D]) of `dtype`, `leading` sizes before the last: y = Π·x for every vector, or Πᵀ·x.

    Sums are float32. Raises ValueError for a head_dim that `can_rotate` does not take.
    """
    if not can_rotate(head_dim):
        raise ValueError(f"a warp rotates powers of two from {WARP} to 512, found {head_dim}")

    def body() -> None:
        shape = (*(dimension(f"n{i}") for i in range(leading)), head_dim)
        x, y = argument("x", shape, dtype), argument("y", shape, dtype)
        count = tirx.const(1, "int64")
        for size in shape[:-1]:
            count = count * size
        warps = _THREADS // WARP
        grid = tirx.floordiv(count + (warps - 1), tirx.const(warps, "int64"))
        with blocks(grid, 1, 1) as (block, _, _), threads(_THREADS) as thread:
            lane = hold(thread & 31)
            row = hold(i64(i32(block) * warps) + i64(thread >> 5))
            turn = WarpRotation(head_dim, lane, seed, rounds, inverse)
            with when(row < count):
                at = _indices(row, shape[:-1])
                values = registers("values", turn.size)
                for e in range(turn.size):
                    store(values, f32(x[(*at, turn.dim(e))]), e)
                turn.apply(values)
                for e in range(turn.size):
                    store(y, to(dtype, values[e]), *at, turn.dim(e))

    return build_kernel("cuda_rotate", body)


def _indices(row: Expr, sizes: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The indices of vector number `row`."""
    found: list[Expr] = []
    for size in reversed(sizes):
        found.insert(0, hold(tirx.floormod(row, size)))
        row = tirx.floordiv(row, size)
    return tuple(found)
