"""Random block-quantized weights of every form, with the dense weight they stand for."""

from dataclasses import dataclass

import numpy as np

from tqc.codec import nbits

FORMATS = [
    {"bits": 4, "block": 16},
    {"bits": 4, "block": 32, "points": "uint8"},
    {"bits": 4, "block": 32, "points": "float"},
    {"bits": 8, "block": 16, "points": "uint8"},
    {"bits": 8, "block": 64},
    {"bits": 8, "block": 32, "points": "float"},
]
"""Bits, blocks and zero points; with `dtype` the type of scales and float zero points."""


@dataclass(frozen=True)
class NbitsWeight:
    """arrays: packed, scales and, if it has them, zero_points; options: bits and block; dense: float32 [N, K]."""

    arrays: dict[str, np.ndarray]
    options: dict[str, int]
    dense: np.ndarray


def make_weight(n, k, *, bits, block, points="", dtype="float32", seed=1) -> NbitsWeight:
    """A weight [n, k]; points: "uint8", "float" or none; dtype: that of the scales."""
    rng = np.random.default_rng(seed)
    blocks = -(-k // block)
    packed = rng.integers(0, 256, (n, blocks, block * bits // 8), np.uint8)
    scales = (rng.uniform(0.5, 2, (n, blocks)) / 2**bits).astype(dtype)
    arrays = {"packed": packed, "scales": scales}
    if points:
        numbers = rng.integers(0, 1 << bits, (n, blocks), np.uint8)
        arrays["zero_points"] = nbits.pack(numbers, bits) if points == "uint8" else (numbers + 0.25).astype(dtype)
    dense = nbits.dequantize(*arrays.values(), bits=bits, width=k)
    return NbitsWeight(arrays, {"bits": bits, "block": block}, dense)
