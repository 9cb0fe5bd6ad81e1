"""What has to be done to block-quantized weights before all of them have the form of `tqc.codec.nbits`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec import nbits


def _rows(array: np.ndarray, bits: int, rows: int, width: int, signed: bool) -> np.ndarray:
    """Numbers packed without regard to rows → uint8 [rows, ⌈width·bits/8⌉], signed ones moved up by half the range."""
    if width * bits % 8:
        array = nbits.pack(nbits.unpack(array.reshape(-1), bits)[: rows * width].reshape(rows, width), bits)
    array = array.reshape(rows, -1)
    return array ^ np.uint8(0x88 if bits == 4 else 0x80) if signed else array


@dataclass(frozen=True)
class Blocks:
    """Packed numbers of a matrix [rows, width] → uint8 [rows, ⌈width/block⌉, block·bits/8], the last filled up."""

    bits: int
    block: int
    rows: int
    width: int
    signed: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        array = _rows(array, self.bits, self.rows, self.width, self.signed)
        size = self.block * self.bits // 8
        return np.pad(array, ((0, 0), (0, -array.shape[1] % size))).reshape(self.rows, -1, size)


@dataclass(frozen=True)
class Points:
    """Packed zero points of a matrix [rows, blocks] → uint8 [rows, ⌈blocks·bits/8⌉]."""

    bits: int
    rows: int
    blocks: int
    signed: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        return _rows(array, self.bits, self.rows, self.blocks, self.signed)
