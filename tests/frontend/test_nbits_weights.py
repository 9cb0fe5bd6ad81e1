"""Block-quantized weights of other forms become those of the codec."""

import numpy as np
import pytest

from tqc.codec import nbits
from tqc.frontend.nbits_weights import CutBlocks, SplitRows
from tqc.frontend.slabs import slabs
from tqc.frontend.weights import ArrayTensor, Weight

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("width", [32, 47, 3])
@pytest.mark.parametrize("signed", [False, True])
def test_rows_of_half_bytes_start_anew(width, signed):
    numbers = RNG.integers(0, 16, (3, width), np.uint8)
    found = SplitRows(3, width, signed).apply(nbits.pack(numbers.reshape(-1), 4))
    assert found.shape == (3, -(-width // 2))
    np.testing.assert_array_equal(nbits.unpack(found, 4)[:, :width], (numbers + 8) % 16 if signed else numbers)


@pytest.mark.parametrize("most", [1, 100, 1 << 20])
def test_a_last_block_is_filled_up(most):
    stored = RNG.integers(0, 256, (5, 40), np.uint8)
    transform = CutBlocks(16)
    weight = Weight("w", stored.shape, "uint8", ArrayTensor(stored), "w").then(
        transform, shape=transform.shape((5, 40))
    )
    found = np.concatenate(list(slabs(weight, most)))
    assert found.shape == (5, 3, 16)
    np.testing.assert_array_equal(found.reshape(5, -1)[:, :40], stored)
    assert not found.reshape(5, -1)[:, 40:].any()
