from __future__ import annotations

import pytest

from tqc.errors import SessionError
from tqc.runtime.pages import PageTable


def test_no_page_is_given_twice():
    pages = PageTable(3, 4)
    for length in range(1, 5):
        for sequence in (2, 0, 1):
            pages.grow(sequence, length)
    assert sorted(pages.table.reshape(-1)) == list(range(pages.pool)) == list(range(12))


def test_pages_in_use_stay_and_others_come_on_demand():
    pages = PageTable(2, 3)
    pages.grow(0, 1)
    pages.grow(1, 1)
    before, version = pages.table.copy(), pages.version
    pages.grow(0, 1)
    assert pages.version == version
    pages.grow(0, 2)
    assert pages.version > version
    assert (pages.table[:, 0] == before[:, 0]).all()
    assert len({*pages.table[0, :2], pages.table[1, 0]}) == 3


def test_clear_takes_all_back():
    pages = PageTable(2, 2)
    pages.grow(0, 2)
    pages.clear()
    pages.grow(1, 2)
    pages.grow(0, 2)
    assert sorted(pages.table.reshape(-1)) == [0, 1, 2, 3]


def test_too_many_pages_are_refused():
    pages = PageTable(1, 2)
    with pytest.raises(SessionError, match="no pages left"):
        pages.grow(0, 3)


def test_a_table_is_never_empty():
    assert PageTable(2, 0).table.shape == (2, 1)
    assert PageTable(2, 0).per_sequence == 1
