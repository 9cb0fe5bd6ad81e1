"""Codes of one page packed into the `uint16` units of the cache, and back; `layout` describes the order."""

from __future__ import annotations

import numpy as np

from tqc.codec.layout import planes
from tqc.codec.limits import check_bits
from tqc.errors import CodecError

UNIT_BITS = 16


def pack_k(codes: np.ndarray, bits: int) -> np.ndarray:
    """K codes uint8 [..., page, head_dim] → uint16 [..., page·head_dim·bits/16]; head_dim a multiple of 16.

    Raises CodecError if `bits` is not 1…8, the dims do not fill whole units, or a code needs more than `bits` bits.
    """
    check_bits(bits)
    codes = np.asarray(codes)
    *lead, rows, columns = codes.shape
    if columns % UNIT_BITS:
        raise CodecError("codes do not fill whole units", expected="a multiple of 16", found=str(columns))
    if codes.size and int(codes.max()) >> bits:
        raise CodecError("a code is too large", expected=f"at most {2**bits - 1}", found=str(int(codes.max())))
    packed = []
    for width, shift in planes(bits):
        per_unit = UNIT_BITS // width
        fields = codes.astype(np.uint16) >> shift & (1 << width) - 1
        fields = fields.reshape(*lead, rows, columns // per_unit, per_unit)
        fields = fields << (np.arange(per_unit, dtype=np.uint16) * np.uint16(width))
        units = np.bitwise_or.reduce(fields, axis=-1)
        packed.append(units.swapaxes(-1, -2).reshape(*lead, rows * columns // per_unit))
    return np.concatenate(packed, axis=-1)


def unpack_k(units: np.ndarray, bits: int, head_dim: int) -> np.ndarray:
    """The inverse of `pack_k`: uint16 [..., units] → K codes uint8 [..., page, head_dim]; the size gives the page."""
    check_bits(bits)
    units = np.asarray(units)
    *lead, count = units.shape
    rows, rest = divmod(count * UNIT_BITS, bits * head_dim)
    if rest or head_dim % UNIT_BITS:
        raise CodecError(
            "units do not hold whole vectors",
            expected=f"a multiple of {bits * head_dim // UNIT_BITS}",
            found=str(count),
        )
    codes = np.zeros((*lead, rows, head_dim), np.uint16)
    start = 0
    for width, shift in planes(bits):
        per_unit = UNIT_BITS // width
        end = start + rows * head_dim // per_unit
        plane = units[..., start:end].reshape(*lead, head_dim // per_unit, rows).swapaxes(-1, -2)
        fields = plane[..., None] >> (np.arange(per_unit, dtype=np.uint16) * np.uint16(width)) & (1 << width) - 1
        codes |= fields.reshape(*lead, rows, head_dim) << shift
        start = end
    return codes.astype(np.uint8)


def pack_v(codes: np.ndarray, bits: int) -> np.ndarray:
    """V codes uint8 [..., page, head_dim] → uint16 [..., page·head_dim·bits/16]; page a multiple of 16.

    Raises CodecError as `pack_k` does, with tokens in the place of dims.
    """
    return pack_k(np.swapaxes(codes, -1, -2), bits)


def unpack_v(units: np.ndarray, bits: int, head_dim: int) -> np.ndarray:
    """The inverse of `pack_v`: uint16 [..., units] → V codes uint8 [..., page, head_dim]; the size gives the page."""
    page, rest = divmod(np.shape(units)[-1] * UNIT_BITS, bits * head_dim)
    if rest:
        raise CodecError("units do not hold whole pages", expected=f"pages of {head_dim} dims", found=str(page))
    return unpack_k(units, bits, page).swapaxes(-1, -2)
