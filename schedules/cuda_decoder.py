"""From the codes of a column to operand A of the tensor cores, in registers: one decoder for each width of code.

A lane has 32 values of a column (`tqc.codec.fragments`), eight in each strip, and decodes a strip into four registers
of two float16. Centroids come out exactly as their float16: their high and low bytes are looked up by `prmt`, which
takes one of eight bytes by three bits, and interleaved. For 8 values that is, in integer instructions,

    1 bit     8   the pair's signs are shifted to the top and put on the centroid
    2         9   the high bytes of ±1.5 and ±5, whose low bytes are 0: but for a factor the centroids of 2 bits
    2, 3     11, 13   up to eight centroids, by the code itself
    4        13   eight magnitudes, and the sign on the high bytes
    5 … 8    36   half a table of magnitudes in shared memory, which a load takes one value at a time

The order of symbols and bits is that of `fragments.symbols` and `fragments.bit_places`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.fragments import STRIPS, VALUES
from tqc.schedules.cuda_builder import store
from tqc.schedules.cuda_ptx import hold, load_shared, permute, registers, u32

_PAIRS = VALUES // 2
_INTERLEAVE = (0x5140, 0x7362)
"""Bytes (low 0, high 0, low 1, high 1) and the same of values 2 and 3."""
_WIDEN = (0x5040, 0x7060)
"""The same where all low bytes are 0."""
_SIGNS = 0x80008000


def half_bits(values: np.ndarray) -> np.ndarray:
    """float16 bits, uint16."""
    return np.asarray(values, np.float16).view(np.uint16)


COARSE = np.array([-5.0, -1.5, 1.5, 5.0], np.float32)
"""The ratio of the magnitudes of 2 bits is 3.33 for every head_dim: 3.30 at 32 dims, 3.331 at 256."""


def coarse_unit(centroids: np.ndarray) -> float:
    """What `COARSE` are to be multiplied by to be nearest to the centroids of 2 bits."""
    return float(COARSE @ centroids / (COARSE @ COARSE))


def lookup_table(bits: int, centroids: np.ndarray) -> np.ndarray | None:
    """What shared memory must hold for a decoder, uint32; None if it needs nothing.

    From 5 bits on the magnitudes from the smallest on. For 2 to 4 bits the eight low bytes of the centroids, or of the
    magnitudes, then their high bytes: four words that a decoder reads once. As constants the compiler would put them in
    uniform registers, which `prmt` does not take, and copy them at each use, a sixth of all instructions.
    """
    if bits == 1:
        return None
    table = half_bits(centroids if bits < 4 else centroids[len(centroids) // 2 :])
    if bits > 4:
        return table.astype(np.uint32)
    padded = np.pad(table, (0, 8 - len(table)))
    return np.concatenate([(padded >> shift).astype(np.uint8) for shift in (0, 8)]).view("<u4")


@dataclass
class Decoder:
    """Decodes `bits`-bit codes of one codebook, float32 [2**bits], antisymmetric.

    `table`: the shared-memory address of `lookup_table`, where there is one. To be made outside of loops.
    """

    bits: int
    centroids: np.ndarray
    table: Expr | None = None
    _scratch: list[Buffer] = field(default_factory=list)

    def __post_init__(self) -> None:
        if 1 < self.bits < 5:
            self._bytes = registers("table_bytes", 4, "uint32")
            load_shared([self._bytes[n] for n in range(4)], self.table)
        self._coarse = not (half_bits(self.centroids) & 0xFF).any()

    def decode(self, words: Buffer, operands: Buffer) -> None:
        """`words`: a lane's `bits` words of a column; `operands`: 16 registers, four of each strip."""
        makers: dict[int, Callable[[Buffer, Buffer, int], None]] = {1: self._one, 2: self._few, 3: self._few}
        maker = makers.get(self.bits, self._four if self.bits == 4 else self._many)
        for strip in range(STRIPS):
            maker(words, operands, strip)

    def _one(self, words: Buffer, operands: Buffer, strip: int) -> None:
        positive = int(half_bits(self.centroids[1:])[0]) * 0x10001
        for pair in range(_PAIRS):
            place = strip * _PAIRS + pair
            store(operands, (shift_left(words[0], place) & u32(_SIGNS)) ^ u32(positive), place)

    def _few(self, words: Buffer, operands: Buffer, strip: int) -> None:
        two = shift_left(words[strip // 2], -2 * (strip % 2)) & u32(0x33333333)
        if self.bits == 3:
            two = two | (shift_left(words[2], 2 - strip) & u32(0x44444444))
        selectors = hold(two)
        for half in range(2):
            self._look_up(shift_left(selectors, -16 * half), operands, strip, half)

    def _four(self, words: Buffer, operands: Buffer, strip: int) -> None:
        word = words[strip]
        selectors = hold(word & u32(0x77777777))
        for half in range(2):
            signs = shift_left(word, 4 * half) & u32(0x80808080)
            self._look_up(shift_left(selectors, -16 * half), operands, strip, half, signs)

    def _look_up(self, selectors: Expr, operands: Buffer, strip: int, half: int, signs: Expr | None = None) -> None:
        """Four values, by the nibbles of the selectors' low half; `signs`: bits that change on the high bytes."""
        low, high = self._registers(2)
        for n, register in enumerate((low, high)):
            if register is high or not self._coarse:
                permute(register[0], self._bytes[2 * n], self._bytes[2 * n + 1], selectors)
        if signs is not None:
            store(high, high[0] ^ signs, 0)
        for pair in range(2):
            operand = operands[strip * _PAIRS + 2 * half + pair]
            if self._coarse:
                permute(operand, u32(0), high[0], u32(_WIDEN[pair]))
            else:
                permute(operand, low[0], high[0], u32(_INTERLEAVE[pair]))

    def _many(self, words: Buffer, operands: Buffer, strip: int) -> None:
        width = self.bits - 1
        (both,) = self._registers(1, 2)
        for pair in range(_PAIRS):
            for n in range(2):
                at = (strip * VALUES + 2 * pair + n) * width
                offset = _field(words, at, width) << u32(2) if at % 32 == 0 else _field(words, at - 2, width + 2)
                load_shared([both[n]], self.table + (offset & u32((2**width - 1) << 2)))
            place = strip * _PAIRS + pair
            signs = shift_left(words[width], place) & u32(_SIGNS)
            store(operands, (both[0] | (both[1] << u32(16))) ^ signs, place)

    def _registers(self, count: int, size: int = 1) -> list[Buffer]:
        """Scratch of the decoder, the same at every call."""
        while len(self._scratch) < count:
            self._scratch.append(registers("decoded", size, "uint32"))
        return self._scratch[:count]


def shift_left(word: Expr, by: int) -> Expr:
    """The word shifted to the left, or to the right where `by` is negative."""
    if by == 0:
        return word
    return word << u32(by) if by > 0 else word >> u32(-by)


def _field(words: Buffer, at: int, width: int) -> Expr:
    """Bits `at` … of a stream of words, in the low bits of the result; what is above them is anything."""
    word, bit = divmod(at, 32)
    low = words[word] >> u32(bit) if bit else words[word]
    return low if bit + width <= 32 else low | (words[word + 1] << u32(32 - bit))
