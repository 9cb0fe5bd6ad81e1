"""Codes of one vector as bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc.codec import bitstream


@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("bits", range(1, 9))
def test_round_trip(bits: int, dim: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (2, 3, dim), dtype=np.uint8)
    packed = bitstream.pack(codes, bits)
    assert packed.shape == (2, 3, dim * bits // 8)
    np.testing.assert_array_equal(bitstream.unpack(packed, bits, dim), codes)


@given(bits=st.integers(1, 8), values=st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_any_length_is_one_little_endian_number(bits: int, values: list[int]) -> None:
    codes = np.array([value % 2**bits for value in values], np.uint8)
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    packed = bitstream.pack(codes, bits)
    assert packed.tobytes() == number.to_bytes(-(-len(codes) * bits // 8), "little")
    np.testing.assert_array_equal(bitstream.unpack(packed, bits, len(codes)), codes)
