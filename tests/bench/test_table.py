from __future__ import annotations

from tqc.bench.table import number


def test_numbers_have_three_or_four_digits():
    assert [number(value) for value in (1.234, 12.34, 123.4)] == ["1.23", "12.3", "123"]
    assert (number(1234.5), number(-1234.5), number(0)) == ("1,234", "-1,234", "0.00")
