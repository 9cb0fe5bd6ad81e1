"""Codes of one vector packed into bytes: code i takes bits i·b … i·b + b − 1, least significant first."""

from __future__ import annotations

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint8 codes [..., n], each below 2**bits → uint8 [..., ⌈n·bits/8⌉]; unused high bits are 0."""
    fields = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    return np.packbits(fields.reshape(*codes.shape[:-1], codes.shape[-1] * bits), axis=-1, bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack`: uint8 [..., ⌈count·bits/8⌉] → uint8 codes [..., count]."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little", count=count * bits)
    fields = stream.reshape(*packed.shape[:-1], count, bits)
    return np.packbits(fields, axis=-1, bitorder="little")[..., 0]
