"""The order of a page of 64 tokens in which a GPU's tensor cores take it: fragments of `mma.m16n8k16`.

Keys and values are the instruction's operand A, queries and probabilities its operand B. A page is cut into columns of
16 rows of the coded vector, a column into four strips of 16 tokens; a strip of a column is one operand A. Of it a lane
(32 of a warp; g = lane // 4, t = lane % 4) holds eight values (PTX ISA, "Matrix Fragments for mma.m16n8k16"), number j
at

    (g + 8·(j // 2 % 2), 2·t + j % 2 + 8·(j // 4))

which is (token, row) for keys, whose scores sum over rows, and (row, token) for values, whose outputs sum over tokens.
Both are 32 values a lane and column, four strips of eight.

**Exact values** are stored `[column, strip, lane, j]`, 16 bytes a lane.

**Codes** of b bits are b words of 32 bits a lane and column, stored in runs of 4, 2 or 1 words a lane (`runs`), each
run `[lane, word]`, so that a warp reads a run at once. A code's symbol (`symbols`) lies in these words where its
decoder on the device wants it (`bit_places`, schedules/cuda_decoder.py).

**Scales** are float16, `[scale, g, strip, half]`: token 16·strip + g + 8·half. A lane needs the eight of its g.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tqc.codec.limits import check_bits
from tqc.errors import CodecError

TOKENS = 64
"""Tokens of a page in this order."""
ROWS = 16
"""Rows of a column."""
STRIP = 16
"""Tokens of a strip."""
WARP = 32
VALUES = 8
"""Values of a strip that a lane holds."""
STRIPS = TOKENS // STRIP


@lru_cache
def places(side: str) -> tuple[np.ndarray, np.ndarray]:
    """(token of the page, row of the column) of every value: int [lane, strip, j]. `side`: k or v."""
    lane, strip, j = np.meshgrid(np.arange(WARP), np.arange(STRIPS), np.arange(VALUES), indexing="ij")
    along_m = lane // 4 + VALUES * (j // 2 % 2)
    along_k = 2 * (lane % 4) + j % 2 + VALUES * (j // 4)
    token, row = (along_m, along_k) if side == "k" else (along_k, along_m)
    return strip * STRIP + token, row


def runs(bits: int) -> tuple[tuple[int, int], ...]:
    """(first word, words) of the runs in which a lane's `bits` words are stored: 7 → ((0, 4), (4, 2), (6, 1))."""
    found, start = [], 0
    for width in (4, 4, 2, 1):
        if start + width <= bits:
            found.append((start, width))
            start += width
    return tuple(found)


def symbols(bits: int) -> np.ndarray:
    """The symbol of every code, uint32 [2**bits].

    1 bit: the sign bit, set for the negative centroid. 2 and 3: the code. From 4 on, sign and magnitude: codebooks are
    symmetric, so half a table is enough; bit b − 1 is the sign, the others count from the middle outwards.
    """
    codes, half = np.arange(2**bits, dtype=np.uint32), np.uint32(2**bits // 2)
    if bits == 1:
        return codes ^ 1
    return codes if bits < 4 else np.where(codes < half, codes ^ (2 * half - 1), codes ^ half)


@lru_cache
def bit_places(bits: int) -> np.ndarray:
    """Where bit n of the symbol of value j in strip i lies in a lane's words: int [strip i, j, n], 32·word + bit."""
    check_bits(bits)
    strip, j, n = np.meshgrid(np.arange(STRIPS), np.arange(VALUES), np.arange(bits), indexing="ij")
    signs = 15 - (strip * 4 + j // 2) + 16 * (j % 2)  # a pair's, to be shifted to bits 15 and 31
    if bits == 1:
        return signs
    if bits < 4:  # nibbles of two bits of an even and of two bits of an odd strip; third bits in a word of their own
        two = 32 * (strip // 2) + 4 * j + 2 * (strip % 2) + n
        return np.where(n < 2, two, 64 + 4 * j + strip)
    if (
        bits == 4
    ):  # nibbles; the top bits hold the signs of bytes that a permutation puts there, of the other half shifted
        return 32 * strip + np.where(n < 3, 4 * j + n, np.where(j < 4, 8 * j + 7, 8 * (j % 4) + 3))
    return np.where(n < bits - 1, (strip * VALUES + j) * (bits - 1) + n, 32 * (bits - 1) + signs)


def pack(codes: np.ndarray, bits: int, side: str) -> np.ndarray:
    """Codes uint8 [..., 64, rows] → uint32 [..., rows·bits·2]; rows a multiple of 16.

    Raises CodecError for other shapes and for codes that need more than `bits` bits.
    """
    codes = np.asarray(codes)
    if codes.ndim < 2 or codes.shape[-2] != TOKENS or codes.shape[-1] % ROWS:
        raise CodecError(
            "codes do not fill fragments", expected=f"[..., {TOKENS}, a multiple of {ROWS}]", found=str(codes.shape)
        )
    if codes.size and int(codes.max()) >> bits:
        raise CodecError("a code is too large", expected=f"at most {2**bits - 1}", found=str(int(codes.max())))
    found, where = symbols(bits)[_columns(codes, side)], bit_places(bits)
    words = np.zeros((*found.shape[:-2], bits), np.uint32)
    for i, j, n in np.ndindex(where.shape):
        word, bit = divmod(int(where[i, j, n]), 32)
        words[..., word] |= (found[..., i, j] >> np.uint32(n) & np.uint32(1)) << np.uint32(bit)
    stored = [words[..., first : first + count].reshape(*words.shape[:-2], WARP * count) for first, count in runs(bits)]
    return _flat(np.concatenate(stored, axis=-1), 2)


def unpack(words: np.ndarray, bits: int, rows: int, side: str) -> np.ndarray:
    """The inverse of `pack`: uint32 [..., rows·bits·2] → codes uint8 [..., 64, rows]."""
    words = np.asarray(words)
    lead, columns = words.shape[:-1], rows // ROWS
    if rows % ROWS or words.shape[-1] != columns * WARP * bits:
        raise CodecError("these are no fragments", expected=f"{rows * bits * 2} words", found=str(words.shape[-1]))
    stored, lanes = words.reshape(*lead, columns, WARP * bits), []
    for first, count in runs(bits):
        part = stored[..., WARP * first : WARP * (first + count)]
        lanes.append(part.reshape(*lead, columns, WARP, count))
    lane_words, where = np.concatenate(lanes, axis=-1), bit_places(bits)
    found = np.zeros((*lane_words.shape[:-1], STRIPS, VALUES), np.uint32)
    for i, j, n in np.ndindex(where.shape):
        word, bit = divmod(int(where[i, j, n]), 32)
        found[..., i, j] |= (lane_words[..., word] >> np.uint32(bit) & np.uint32(1)) << np.uint32(n)
    return _tokens(np.argsort(symbols(bits)).astype(np.uint8)[found], side)


def pack_exact(values: np.ndarray, side: str) -> np.ndarray:
    """Values [..., tokens, rows], whole strips and columns → [..., tokens·rows]; any number of strips."""
    values = np.asarray(values)
    tokens, rows = values.shape[-2:]
    if tokens % STRIP or rows % ROWS:
        raise CodecError("values do not fill fragments", expected="multiples of 16", found=str(values.shape))
    token, row = (x[:, 0] for x in places(side))
    strips = values.reshape(*values.shape[:-2], tokens // STRIP, STRIP, rows // ROWS, ROWS)
    return _flat(np.moveaxis(strips, -2, -4)[..., token, row], 4)


def unpack_exact(stored: np.ndarray, rows: int, side: str) -> np.ndarray:
    """The inverse of `pack_exact`; the size gives the number of tokens."""
    columns = rows // ROWS
    lead, strips = stored.shape[:-1], stored.shape[-1] // (columns * STRIP * ROWS)
    token, row = (x[:, 0] for x in places(side))
    values = np.empty((*lead, columns, strips, STRIP, ROWS), stored.dtype)
    values[..., token, row] = stored.reshape(*lead, columns, strips, WARP, VALUES)
    return np.ascontiguousarray(np.moveaxis(values, -4, -2)).reshape(*lead, strips * STRIP, rows)


def scale_order() -> np.ndarray:
    """The token of each of the 64 stored numbers of a scale."""
    g, strip, half = np.meshgrid(np.arange(8), np.arange(STRIPS), np.arange(2), indexing="ij")
    return (strip * STRIP + g + 8 * half).reshape(-1)


def _columns(codes: np.ndarray, side: str) -> np.ndarray:
    """[..., 64, rows] → [..., column, lane, strip, j]."""
    token, row = places(side)
    columns = codes.reshape(*codes.shape[:-1], codes.shape[-1] // ROWS, ROWS)
    return np.moveaxis(columns, -2, -3)[..., token, row]


def _tokens(columns: np.ndarray, side: str) -> np.ndarray:
    """The inverse of `_columns`."""
    token, row = places(side)
    count = columns.shape[-4]
    values = np.empty((*columns.shape[:-4], count, TOKENS, ROWS), columns.dtype)
    values[..., token, row] = columns
    return np.ascontiguousarray(np.moveaxis(values, -3, -2)).reshape(*columns.shape[:-4], TOKENS, count * ROWS)


def _flat(x: np.ndarray, axes: int) -> np.ndarray:
    """The last `axes` axes as one."""
    return np.ascontiguousarray(x).reshape(*x.shape[: x.ndim - axes], -1)
