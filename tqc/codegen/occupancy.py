"""How many blocks of a kernel a multiprocessor holds at once, and what stops it from holding more."""

from __future__ import annotations

from dataclasses import dataclass

from tqc.gpu_limits import REGISTER_STEP, REGISTERS, RESERVED_SHARED, SCHEDULERS, SHARED_STEP, WARP, gpu_limits


@dataclass(frozen=True)
class Occupancy:
    """`blocks` and `warps` resident on a multiprocessor; `share`: of the warps that it could hold; `limit`: what runs
    out first, warps, blocks, registers or shared memory. 0 blocks: the kernel cannot be launched."""

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(arch: str, *, threads: int, registers: int, shared: int) -> Occupancy:
    """Of a kernel with blocks of `threads` threads, `registers` a thread and `shared` bytes of shared memory, static
    and dynamic together. The rules are those of cuda_occupancy.h. Raises TargetError for an unknown architecture."""
    limits = gpu_limits(arch)
    warps = -(-threads // WARP)
    warp_registers = _rounded(registers * WARP, REGISTER_STEP)
    block_shared = _rounded(shared + RESERVED_SHARED, SHARED_STEP)
    # Registers lie in four files, one for each scheduler's warps.
    register_warps = REGISTERS // SCHEDULERS // max(warp_registers, 1) * SCHEDULERS
    # A launch is refused where a block's warps, dealt out evenly, would not fit.
    fits = warp_registers * _rounded(warps, SCHEDULERS) <= REGISTERS
    room = {
        "blocks": limits.blocks,
        "warps": limits.warps // warps,
        "registers": register_warps // warps if fits else 0,
        "shared memory": limits.shared // block_shared,
    }
    limit = min(room, key=lambda name: room[name])
    resident = room[limit]
    return Occupancy(resident, resident * warps, resident * warps / limits.warps, limit)


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step
