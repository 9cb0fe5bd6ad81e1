"""Codes into the words of a lane, on the device: what `cuda_decoder` takes apart again."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr
from tvm.tirx import Buffer

from tqc.codec.fragments import STRIPS, VALUES, bit_places, runs
from tqc.schedules.cuda_builder import local, store, to

_WORD = 32


def pack_lane(code: Callable[[int, int], Expr], bits: int) -> Buffer:
    """A lane's `bits` words of a column; `code(strip, j)` is asked for once each, as int32."""
    words, symbol = local("words", bits, "uint32"), local("symbol", 1, "uint32")
    for word in range(bits):
        store(words, tirx.const(0, "uint32"), word)
    for strip in range(STRIPS):
        for j in range(VALUES):
            store(symbol, symbol_of(code(strip, j), bits), 0)
            for n, count, word, bit in _pieces(strip, j, bits):
                field = (symbol[0] >> n) & tirx.const((1 << count) - 1, "uint32")
                store(words, words[word] | (field << bit), word)
    return words


def symbol_of(code: Expr, bits: int) -> Expr:
    """`fragments.symbols`, as uint32."""
    half = 1 << (bits - 1)
    if bits == 1:
        return to("uint32", code ^ 1)
    if bits < 4:
        return to("uint32", code)
    return to("uint32", tirx.Select(code < half, code ^ (2 * half - 1), code ^ half))


def _pieces(strip: int, j: int, bits: int) -> list[tuple[int, int, int, int]]:
    """(first bit of the symbol, how many, word, bit of the word) of the pieces that stay together."""
    pieces: list[tuple[int, int, int, int]] = []
    for n, place in enumerate(int(place) for place in bit_places(bits)[strip, j]):
        word, bit = divmod(place, _WORD)
        if pieces and pieces[-1][2:] == (word, bit - pieces[-1][1]):
            first, count, *at = pieces[-1]
            pieces[-1] = (first, count + 1, *at)
        else:
            pieces.append((n, 1, word, bit))
    return pieces


def store_lane(words: Buffer, bits: int, put: Callable[[Expr | int, Expr], None], column: Expr, lane: Expr) -> None:
    """Writes a lane's words of a column; `put(element, word)` counts elements from the first column on."""
    for first, count in runs(bits):
        for n in range(count):
            put(column * (_WORD * bits) + (_WORD * first + n) + lane * count, words[first + n])
