"""What a multiprocessor of each CUDA architecture has, and what a block of threads may take of it.

A leaf: kernels are shaped by these numbers, and reports say how much of them a compiled kernel leaves free. Sources:
CUDA Programming Guide, "Compute Capabilities", table of technical specifications; blocks and granularities also
cuda_occupancy.h of CUDA 13.0, with which the tests compare.
"""

from __future__ import annotations

from dataclasses import dataclass

from tqc.errors import TargetError

WARP = 32
"""Threads."""

REGISTERS = 64 * 1024
"""32-bit registers of a multiprocessor, and of a block, on every architecture here."""

MOST_REGISTERS = 255
"""Of one thread, on every architecture here."""

STATIC_SHARED = 48 * 1024
"""Bytes of shared memory that a block may declare statically, on every architecture here."""

RESERVED_SHARED = 1024
"""Bytes of shared memory that the system keeps of each block's."""

SHARED_STEP = 128
"""Bytes to which a block's shared memory is rounded up."""

REGISTER_STEP = 256
"""Registers to which a warp's are rounded up."""

SCHEDULERS = 4
"""Of a multiprocessor; each has a quarter of the registers and issues an instruction of one warp a clock."""


@dataclass(frozen=True)
class GpuLimits:
    """One architecture. `warps`, `blocks`: resident on a multiprocessor at most; `shared`: its bytes of shared memory;
    `multiprocessors`: of the largest GPU that has them."""

    warps: int
    blocks: int
    shared: int
    multiprocessors: int

    @property
    def block_shared(self) -> int:
        """Bytes of shared memory of one block, static and dynamic, at most."""
        return self.shared - RESERVED_SHARED


def _limits(warps: int, blocks: int, shared_kib: int, multiprocessors: int) -> GpuLimits:
    return GpuLimits(warps, blocks, shared_kib * 1024, multiprocessors)


LIMITS: dict[str, GpuLimits] = {
    "sm_80": _limits(64, 32, 164, 108),
    **dict.fromkeys(("sm_86", "sm_88"), _limits(48, 16, 100, 84)),
    "sm_87": _limits(48, 16, 164, 16),
    "sm_89": _limits(48, 24, 100, 128),
    **dict.fromkeys(("sm_90", "sm_90a"), _limits(64, 32, 228, 132)),
    **dict.fromkeys(("sm_100", "sm_100a", "sm_103", "sm_103a"), _limits(64, 32, 228, 148)),
    **dict.fromkeys(("sm_110", "sm_110a"), _limits(48, 24, 228, 20)),
    **dict.fromkeys(("sm_120", "sm_120a"), _limits(48, 24, 100, 170)),
    **dict.fromkeys(("sm_121", "sm_121a"), _limits(48, 24, 100, 48)),
}


def gpu_limits(arch: str) -> GpuLimits:
    """The limits of `arch`, such as sm_90. Raises TargetError for an architecture that is not in the table."""
    if arch not in LIMITS:
        raise TargetError("no limits are known of this GPU architecture", expected=", ".join(LIMITS), found=arch)
    return LIMITS[arch]
