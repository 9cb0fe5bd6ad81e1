"""Pages in the order of tensor-core fragments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc.codec import fragments
from tqc.errors import CodecError


@pytest.mark.parametrize("side", ["k", "v"])
def test_every_value_of_a_column_has_one_place(side):
    token, row = fragments.places(side)
    assert sorted((token * 16 + row).reshape(-1)) == list(range(64 * 16))
    assert np.array_equal(token // 16, np.broadcast_to(np.arange(4)[:, None], (32, 4, 8)))


def test_values_of_a_lane_are_those_of_the_instruction():
    """Lane 13 (g = 3, t = 1) of operand A: registers (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)."""
    token, row = fragments.places("k")
    assert token[13, 0].tolist() == [3, 3, 11, 11, 3, 3, 11, 11]
    assert row[13, 0].tolist() == [2, 3, 2, 3, 10, 11, 10, 11]
    token, row = fragments.places("v")
    assert row[13, 2].tolist() == [3, 3, 11, 11, 3, 3, 11, 11]
    assert token[13, 2].tolist() == [34, 35, 34, 35, 42, 43, 42, 43]


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_bit_has_a_place_of_its_own(bits):
    assert sorted(fragments.bit_places(bits).reshape(-1)) == list(range(32 * bits))
    assert sum(count for _, count in fragments.runs(bits)) == bits
    assert sorted(fragments.symbols(bits)) == list(range(2**bits))


@pytest.mark.parametrize("bits", range(4, 9))
def test_symbols_count_from_the_middle(bits):
    half, found = 2 ** (bits - 1), fragments.symbols(bits)
    for code, symbol in enumerate(found):
        assert (symbol >= half) == (code < half)
        assert symbol % half == (code - half if code >= half else half - 1 - code)


@given(st.integers(1, 8), st.sampled_from("kv"), st.sampled_from([16, 48, 80, 128]), st.integers(0, 2**32 - 1))
def test_unpack_is_the_inverse_of_pack(bits, side, rows, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (2, 3, 64, rows), np.uint8)
    words = fragments.pack(codes, bits, side)
    assert words.dtype == np.uint32
    assert words.nbytes == codes.size * bits // 8
    np.testing.assert_array_equal(fragments.unpack(words, bits, rows, side), codes)


@pytest.mark.parametrize("side", ["k", "v"])
def test_exact_values(side):
    values = np.random.default_rng(0).standard_normal((2, 32, 48)).astype(np.float16)
    stored = fragments.pack_exact(values, side)
    np.testing.assert_array_equal(fragments.unpack_exact(stored, 48, side), values)
    token, row = fragments.places(side)
    lanes = stored.reshape(2, 3, 2, 32, 8)
    assert lanes[1, 2, 1, 7, 5] == values[1, 16 + token[7, 0, 5], 32 + row[7, 0, 5]]


def test_scales_of_a_lane_lie_together():
    """Those of the tokens that a lane holds of keys, strip after strip."""
    tokens = fragments.scale_order().reshape(8, 4, 2)
    token, _ = fragments.places("k")
    for lane in range(32):
        np.testing.assert_array_equal(tokens[lane // 4], token[lane, :, [0, 2]].T)


def test_what_does_not_fit_is_refused():
    with pytest.raises(CodecError, match="do not fill fragments"):
        fragments.pack(np.zeros((48, 64), np.uint8), 4, "k")
    with pytest.raises(CodecError, match="too large"):
        fragments.pack(np.full((64, 16), 4, np.uint8), 2, "v")
    with pytest.raises(CodecError, match="no fragments"):
        fragments.unpack(np.zeros(100, np.uint32), 2, 16, "k")
    with pytest.raises(CodecError, match="do not fill fragments"):
        fragments.pack_exact(np.zeros((17, 16)), "k")
