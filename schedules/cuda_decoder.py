"""From the codes of a column to operand A of the tensor cores, in registers: one decoder for each width of code.

A lane has 32 values of a column (`tqc.codec.fragments`), eight in each strip, and decodes a strip into four registers
of two float16. Centroids come out exactly as their float16: their high and low bytes are looked up by `prmt`, which
takes one of eight bytes by three bits, and interleaved. For 8 values that is, in integer instructions,

    1 bit     8   the pair's signs are shifted to the top and put on the centroid
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
_SIGNS = 0x80008000


def half_bits(values: np.ndarray) -> np.ndarray:
    """float16 bits, uint16."""
    return np.asarray(values, np.float16).view(np.uint16)


def lookup_table(bits: int, centroids: np.ndarray) -> np.ndarray | None:
    """What shared memory must hold for a decoder: uint32 magnitudes from the smallest on; None if it needs nothing."""
    return half_bits(centroids[len(centroids) // 2 :]).astype(np.uint32) if bits > 4 else None


@dataclass
class Decoder:
    """Decodes `bits`-bit codes of one codebook, float32 [2**bits], antisymmetric.

    `table`: the shared-memory address of `lookup_table`, where there is one.
    """

    bits: int
    centroids: np.ndarray
    table: Expr | None = None
    _scratch: list[Buffer] = field(default_factory=list)

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
            store(operands, (_left(words[0], place) & u32(_SIGNS)) ^ u32(positive), place)

    def _few(self, words: Buffer, operands: Buffer, strip: int) -> None:
        two = _left(words[strip // 2], -2 * (strip % 2)) & u32(0x33333333)
        if self.bits == 3:
            two = two | (_left(words[2], 2 - strip) & u32(0x44444444))
        selectors = hold(two)
        for half in range(2):
            self._look_up(half_bits(self.centroids), _left(selectors, -16 * half), operands, strip, half)

    def _four(self, words: Buffer, operands: Buffer, strip: int) -> None:
        word = words[strip]
        selectors = hold(word & u32(0x77777777))
        magnitudes = half_bits(self.centroids[8:])
        for half in range(2):
            signs = _left(word, 4 * half) & u32(0x80808080)
            self._look_up(magnitudes, _left(selectors, -16 * half), operands, strip, half, signs)

    def _look_up(
        self, table: np.ndarray, selectors: Expr, operands: Buffer, strip: int, half: int, signs: Expr | None = None
    ) -> None:
        """Four values, by the nibbles of the selectors' low half; `signs`: bits that change on the high bytes."""
        low, high = self._registers(2)
        for register, shift in ((low, 0), (high, 8)):
            permute(register[0], *(u32(x) for x in _bytes(table >> shift)), selectors)
        if signs is not None:
            store(high, high[0] ^ signs, 0)
        for pair, selector in enumerate(_INTERLEAVE):
            permute(operands[strip * _PAIRS + 2 * half + pair], low[0], high[0], u32(selector))

    def _many(self, words: Buffer, operands: Buffer, strip: int) -> None:
        width = self.bits - 1
        (both,) = self._registers(1, 2)
        for pair in range(_PAIRS):
            for n in range(2):
                at = (strip * VALUES + 2 * pair + n) * width
                offset = _field(words, at, width) << u32(2) if at % 32 == 0 else _field(words, at - 2, width + 2)
                load_shared([both[n]], self.table + (offset & u32((2**width - 1) << 2)))
            place = strip * _PAIRS + pair
            signs = _left(words[width], place) & u32(_SIGNS)
            store(operands, (both[0] | (both[1] << u32(16))) ^ signs, place)

    def _registers(self, count: int, size: int = 1) -> list[Buffer]:
        """Scratch of the decoder, the same at every call."""
        while len(self._scratch) < count:
            self._scratch.append(registers("decoded", size, "uint32"))
        return self._scratch[:count]


def _left(word: Expr, by: int) -> Expr:
    """The word shifted to the left, or to the right where `by` is negative."""
    if by == 0:
        return word
    return word << u32(by) if by > 0 else word >> u32(-by)


def _field(words: Buffer, at: int, width: int) -> Expr:
    """Bits `at` … of a stream of words, in the low bits of the result; what is above them is anything."""
    word, bit = divmod(at, 32)
    low = words[word] >> u32(bit) if bit else words[word]
    return low if bit + width <= 32 else low | (words[word + 1] << u32(32 - bit))


def _bytes(table: np.ndarray) -> tuple[int, int]:
    """The low bytes of up to eight numbers as two words."""
    padded = np.zeros(8, np.uint8)
    padded[: len(table)] = table & 0xFF
    low, high = (int.from_bytes(part.tobytes(), "little") for part in np.split(padded, 2))
    return low, high
