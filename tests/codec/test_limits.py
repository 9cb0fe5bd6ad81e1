"""The shapes and widths that every codec takes."""

from __future__ import annotations

import pytest

from tqc.codec.limits import check_bits, check_head_dim
from tqc.errors import CodecError


def test_exactly_the_multiples_of_16_up_to_512_are_taken() -> None:
    taken = []
    for dim in range(-32, 700):
        try:
            check_head_dim(dim)
        except CodecError:
            continue
        taken.append(dim)
    assert taken == list(range(16, 513, 16))


def test_exactly_1_to_8_bits_are_taken() -> None:
    for bits in range(1, 9):
        check_bits(bits)
    for bits in (-1, 0, 9, 16):
        with pytest.raises(CodecError, match=f"found: {bits}"):
            check_bits(bits)
