from __future__ import annotations

import pytest

from tqc.eval.axis import short, ticks, tokens


def test_ticks_are_1_2_5_and_powers_of_ten_over_many_decades():
    assert ticks(0.0015, 0.03) == pytest.approx([0.002, 0.005, 0.01, 0.02])
    assert ticks(0.005, 0.02) == pytest.approx([0.005, 0.007, 0.01, 0.02])
    assert ticks(0.0009, 10) == pytest.approx([0.001, 0.01, 0.1, 1, 10])


@pytest.mark.parametrize(("value", "text"), [(0.002, "0.002"), (20.0, "20"), (2e-6, "2e-6"), (1.0, "1"), (100, "100")])
def test_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(100, "100"), (1024, "1k"), (4096, "4k"), (106496, "104k"), (104000, "104k"), (131072, "128k"), (1 << 21, "2M")],
)
def test_tokens(count, text):
    assert tokens(count) == text
