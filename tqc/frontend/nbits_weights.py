"""What has to be done to block-quantized weights before all of them have the form of `tqc.codec.nbits`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tqc.codec import nbits


@dataclass(frozen=True)
class SplitRows:
    """Half bytes of a matrix [rows, width], packed without regard to rows → uint8 [rows, ⌈width/2⌉].

    Signed ones are moved up by half their range.
    """

    rows: int
    width: int
    signed: bool

    def apply(self, array: np.ndarray) -> np.ndarray:
        if self.width % 2:
            numbers = nbits.unpack(array, 4)[: self.rows * self.width]
            array = nbits.pack(numbers.reshape(self.rows, self.width), 4)
        array = array.reshape(self.rows, -1)
        return array ^ np.uint8(0x88) if self.signed else array


@dataclass(frozen=True)
class CutBlocks:
    """Packed rows uint8 [rows, bytes] → [rows, blocks, size], `size` bytes a block, the last filled up with zeros."""

    size: int

    def apply(self, array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, -array.shape[1] % self.size))).reshape(len(array), -1, self.size)

    def shape(self, shape: tuple[int, int]) -> tuple[int, int, int]:
        """The shape of the result."""
        return shape[0], -(-shape[1] // self.size), self.size

    def needs(self, box: tuple[slice, ...], shape: tuple[int, int]) -> tuple[slice, ...]:
        """Whole rows; see `slabs.Local`."""
        return box[0], slice(0, shape[1])
