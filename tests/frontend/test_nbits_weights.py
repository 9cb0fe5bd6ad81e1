"""Block-quantized weights of other forms become those of the codec."""

import numpy as np
import pytest

from tqc.codec import nbits
from tqc.frontend.nbits_weights import Blocks, Points

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("width", [32, 47, 20])
@pytest.mark.parametrize("signed", [False, True])
def test_numbers_packed_without_regard_to_rows(width, signed):
    numbers = RNG.integers(0, 16, (3, width), np.uint8)
    stored = nbits.pack(numbers.reshape(-1), 4)
    found = Blocks(4, 16, 3, width, signed).apply(stored)
    assert found.shape == (3, -(-width // 16), 8)
    wanted = (numbers + 8) % 16 if signed else numbers
    np.testing.assert_array_equal(nbits.unpack(found.reshape(3, -1), 4)[:, :width], wanted)


def test_bytes_are_kept_as_they_are():
    stored = RNG.integers(0, 256, (3, 40), np.uint8)
    found = Blocks(8, 32, 3, 40).apply(stored)
    np.testing.assert_array_equal(found.reshape(3, -1)[:, :40], stored)


def test_zero_points_start_anew_in_each_row():
    numbers = RNG.integers(0, 16, (4, 3), np.uint8)
    found = Points(4, 4, 3, signed=True).apply(nbits.pack(numbers.reshape(-1), 4))
    np.testing.assert_array_equal(nbits.unpack(found, 4)[:, :3], (numbers + 8) % 16)
