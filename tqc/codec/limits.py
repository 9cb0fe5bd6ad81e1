"""The shapes and widths that every codec takes."""

from __future__ import annotations

from tqc.errors import CodecError

MAX_BITS = 8
HEAD_DIM_STEP = 16
MAX_HEAD_DIM = 512


def check_head_dim(head_dim: int) -> None:
    """Raises CodecError unless `head_dim` is a multiple of 16 from 16 to 512: kernels work on 16 lanes."""
    if head_dim % HEAD_DIM_STEP or not HEAD_DIM_STEP <= head_dim <= MAX_HEAD_DIM:
        raise CodecError(
            "this head_dim cannot be encoded",
            expected=f"a multiple of {HEAD_DIM_STEP} from {HEAD_DIM_STEP} to {MAX_HEAD_DIM}",
            found=str(head_dim),
        )


def check_bits(bits: int) -> None:
    """Raises CodecError unless 1 ≤ bits ≤ 8."""
    if not 1 <= bits <= MAX_BITS:
        raise CodecError("there are no codes of this width", expected=f"1 to {MAX_BITS} bits", found=str(bits))
