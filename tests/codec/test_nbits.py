"""Block-quantized weights: packing, zero points, and the weight they stand for."""

import numpy as np
import pytest

from tqc.codec import nbits

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", nbits.BITS)
def test_pack_is_the_inverse_of_unpack(bits):
    numbers = RNG.integers(0, 1 << bits, (3, 5, 32), np.uint8)
    packed = nbits.pack(numbers, bits)
    assert packed.shape == (3, 5, 32 * bits // 8)
    np.testing.assert_array_equal(nbits.unpack(packed, bits), numbers)


def test_the_first_number_is_in_the_low_half():
    np.testing.assert_array_equal(nbits.pack(np.array([[1, 2, 3]], np.uint8), 4), [[0x21, 0x03]])


def test_elements_are_centred_and_scaled_block_by_block():
    packed = np.full((1, 2, 8), 0x92, np.uint8)  # 2, 9, 2, 9, …
    scales = np.array([[1.0, 0.5]], np.float32)
    found = nbits.dequantize(packed, scales, bits=4, width=20)
    np.testing.assert_array_equal(found[0, :2], [-6, 1])
    np.testing.assert_array_equal(found[0, 16:18], [-3, 0.5])
    assert found.shape == (1, 20)


def test_zero_points_are_packed_like_numbers_or_floats():
    packed = np.full((2, 3, 8), 0x55, np.uint8)
    scales = np.ones((2, 3), np.float32)
    points = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    expected = np.repeat(5.0 - points, 16, axis=1)
    for stored in (nbits.pack(points, 4), points.astype(np.float32), points.astype(np.float16)):
        np.testing.assert_array_equal(nbits.dequantize(packed, scales, stored, bits=4, width=48), expected)
