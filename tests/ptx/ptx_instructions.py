"""All handlers: importing this registers them."""

from __future__ import annotations

import ptx_async
import ptx_atomic
import ptx_bits
import ptx_compare
import ptx_convert
import ptx_float
import ptx_integer
import ptx_loadstore
import ptx_matrix
import ptx_mbarrier
import ptx_mma
import ptx_move
import ptx_warp
import ptx_wgmma

__all__ = [
    "ptx_async",
    "ptx_atomic",
    "ptx_bits",
    "ptx_compare",
    "ptx_convert",
    "ptx_float",
    "ptx_integer",
    "ptx_loadstore",
    "ptx_matrix",
    "ptx_mbarrier",
    "ptx_mma",
    "ptx_move",
    "ptx_warp",
    "ptx_wgmma",
]
