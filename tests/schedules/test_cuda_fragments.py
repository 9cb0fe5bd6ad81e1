"""Places of numbers in a page on the device, against the codec's order."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import run_probe

from tqc.codec import fragments
from tqc.schedules.cuda_builder import divide, phase, store
from tqc.schedules.cuda_fragments import exact_element, scale_element, value_place


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("strips", [1, 4])
def test_exact_values_lie_where_the_codec_puts_them(side: str, strips: int) -> None:
    tokens, dims = 16 * strips, 48
    found = np.full((tokens, dims), -1, np.int32)

    def emit(target) -> None:
        with phase(tokens * dims, 64) as item:
            token, dim = divide(item, dims)
            store(target, exact_element(side, token, dim, strips), token, dim)

    run_probe(emit, found)
    numbered = fragments.unpack_exact(np.arange(tokens * dims), dims, side)
    np.testing.assert_array_equal(found, numbered)


@pytest.mark.parametrize("side", ["k", "v"])
def test_values_of_a_lane(side: str) -> None:
    found = np.full((2, 32, 4, 8), -1, np.int32)

    def emit(target) -> None:
        with phase(32, 32) as lane:
            for strip in range(4):
                for j in range(8):
                    for n, place in enumerate(value_place(side, lane, strip, j)):
                        store(target, place, n, lane, strip, j)

    run_probe(emit, found)
    np.testing.assert_array_equal(found, np.stack(fragments.places(side)))


def test_scales() -> None:
    found = np.full(64, -1, np.int32)

    def emit(target) -> None:
        with phase(64, 64) as token:
            store(target, scale_element(token), token)

    run_probe(emit, found)
    np.testing.assert_array_equal(found, np.argsort(fragments.scale_order()))
