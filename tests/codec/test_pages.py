"""Pages of codes: the order of bits and units, checked one value at a time, and round trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tqc.codec import pages
from tqc.codec.layout import CacheLayout, planes
from tqc.errors import CodecError

HEAD_DIMS = (16, 64, 80, 96, 128, 256)


def read(units: np.ndarray, bits: int, line: int, place: int, lines: int, places: int) -> int:
    """The code at `place` of a line whose units stand `lines` apart, read as the layout's text says."""
    code, start = 0, 0
    for width, shift in planes(bits):
        per_unit = 16 // width
        unit = int(units[start + place // per_unit * lines + line])
        code |= (unit >> place % per_unit * width & (1 << width) - 1) << shift
        start += places // per_unit * lines
    return code


@pytest.mark.parametrize("bits", range(1, 9))
def test_order_of_units(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (32, 48), dtype=np.uint8)
    k, v = pages.pack_k(codes, bits), pages.pack_v(codes, bits)
    for token in range(32):
        for dim in range(48):
            assert read(k, bits, token, dim, lines=32, places=48) == codes[token, dim]
            assert read(v, bits, dim, token, lines=48, places=32) == codes[token, dim]


def test_hand_packed_unit() -> None:
    codes = np.zeros((16, 16), np.uint8)
    codes[3, 4:8] = [0x7, 0x1, 0x6, 0x2]  # 3 bits: plane of 2 low bits, then plane of the high bit
    units = pages.pack_k(codes, 3)
    assert units.dtype == np.uint16
    assert {i: int(u) for i, u in enumerate(units) if u} == {3: 0b10_10_01_11 << 8, 32 + 3: 0b0101 << 4}
    units = pages.pack_v(codes.T, 3)
    assert {i: int(u) for i, u in enumerate(units) if u} == {3: 0b10_10_01_11 << 8, 32 + 3: 0b0101 << 4}


@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_round_trip_and_size(bits: int, dim: int) -> None:
    codes = np.random.default_rng(dim).integers(0, 2**bits, (2, 3, 64, dim), dtype=np.uint8)
    size = CacheLayout(3, 3, dim, k=f"tq{bits}", v=f"tq{bits}", page=64).form("k").units(64)
    for pack, unpack in ((pages.pack_k, pages.unpack_k), (pages.pack_v, pages.unpack_v)):
        units = pack(codes, bits)
        assert units.dtype == np.uint16
        assert units.shape == (2, 3, size)
        found = unpack(units, bits, dim)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, codes)


@settings(max_examples=40, deadline=None)
@given(
    bits=st.integers(1, 8), page=st.integers(1, 5), dim=st.integers(1, 5), lead=st.lists(st.integers(0, 2), max_size=2)
)
def test_round_trip_of_any_shape(bits: int, page: int, dim: int, lead: list[int]) -> None:
    shape = (*lead, 16 * page, 16 * dim)
    codes = np.random.default_rng(0).integers(0, 2**bits, shape, dtype=np.uint8)
    np.testing.assert_array_equal(pages.unpack_k(pages.pack_k(codes, bits), bits, 16 * dim), codes)
    np.testing.assert_array_equal(pages.unpack_v(pages.pack_v(codes, bits), bits, 16 * dim), codes)


def test_reject_codes_that_do_not_fit() -> None:
    codes = np.full((16, 16), 8, np.uint8)
    with pytest.raises(CodecError, match="too large"):
        pages.pack_k(codes, 3)
    with pytest.raises(CodecError, match="width"):
        pages.pack_k(codes, 9)
    with pytest.raises(CodecError, match="whole units"):
        pages.pack_k(codes[:, :8], 4)
    with pytest.raises(CodecError, match="whole units"):
        pages.pack_v(codes[:8], 4)


def test_reject_units_of_no_page() -> None:
    units = np.zeros(65, np.uint16)
    with pytest.raises(CodecError, match="whole"):
        pages.unpack_k(units, 4, 16)
    with pytest.raises(CodecError, match="whole"):
        pages.unpack_v(units, 4, 16)
