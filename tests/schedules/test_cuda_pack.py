"""Codes into words on the device, against the codec."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import run_probe

from tqc.codec import fragments
from tqc.schedules.cuda_builder import divide, phase, store
from tqc.schedules.cuda_fragments import value_place
from tqc.schedules.cuda_pack import pack_lane, store_lane


@pytest.mark.parametrize("side", ["k", "v"])
@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_those_of_the_codec(bits: int, side: str) -> None:
    rows = 48
    codes = np.random.default_rng(bits).integers(0, 2**bits, (64, rows), np.int32)
    found = np.full(rows * bits * 2, 0xDEADBEEF, np.uint32)

    def emit(source, target) -> None:
        with phase(rows // 16 * 32, 64) as item:
            column, lane = divide(item, 32)

            def code(strip: int, j: int):
                token, row = value_place(side, lane, strip, j)
                return source[token, column * 16 + row]

            store_lane(pack_lane(code, bits), bits, lambda at, word: store(target, word, at), column, lane)

    run_probe(emit, codes, found)
    np.testing.assert_array_equal(found, fragments.pack(codes, bits, side))
