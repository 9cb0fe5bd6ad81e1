"""Weights in 4 or 8 bits, one scale a block of a row: the definition in NumPy (onnxruntime's MatMulNBits, its
docs/ContribOperators.md).

A weight [N, K] is stored as uint8 [N, ⌈K/block⌉, block·bits/8], the first of two numbers in the low half of a byte. Its
element is `(q − z)·scale` with the scale and zero point z of its block; without zero points z is 2^(bits − 1).
"""

from __future__ import annotations

import numpy as np

BITS = (4, 8)
BLOCKS = (16, 32, 64, 128, 256)


def centre(bits: int) -> int:
    """The zero point of a weight that stores none."""
    return 1 << (bits - 1)


def unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [..., C] → the numbers it holds, uint8 [..., C·8/bits]."""
    if bits == 8:
        return packed
    halves = np.stack([packed & 15, packed >> 4], axis=-1)
    return halves.reshape(*packed.shape[:-1], -1)


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `unpack`; an odd number of halves is filled up with a zero."""
    if bits == 8:
        return numbers.astype(np.uint8)
    if numbers.shape[-1] % 2:
        numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, 1)])
    return (numbers[..., 0::2] | numbers[..., 1::2] << 4).astype(np.uint8)


def zeros(zero_points: np.ndarray | None, shape: tuple[int, int], bits: int) -> np.ndarray:
    """Zero points as float32 of `shape` [N, blocks]: packed uint8 [N, ⌈blocks·bits/8⌉], floats [N, blocks] or None."""
    if zero_points is None:
        return np.full(shape, centre(bits), np.float32)
    if zero_points.dtype == np.uint8:
        zero_points = unpack(zero_points, bits)[:, : shape[1]]
    return zero_points.astype(np.float32)


def dequantize(
    packed: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None = None, *, bits: int, width: int
) -> np.ndarray:
    """The weight [N, width] in float32; scales [N, blocks]."""
    rows, blocks, _ = packed.shape
    numbers = unpack(packed, bits).astype(np.float32)
    centred = numbers - zeros(zero_points, (rows, blocks), bits)[..., None]
    return (centred * scales.astype(np.float32)[..., None]).reshape(rows, -1)[:, :width]
