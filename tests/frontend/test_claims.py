"""Each claim holds for what it says at every size and for nothing near it."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.frontend.claims import Claim
from tqc.frontend.setting import Setting

SETTING = Setting(2, 3, 5)
VALUES = {
    Claim.POSITIONS: np.array([[5, 6, 7], [5, 6, 7]]),
    Claim.START: np.array(5),
    Claim.TOTAL: np.array([8]),
    Claim.SEQ: np.array(3),
    Claim.LAST: np.array([7, 7], np.int32),
    Claim.MASK: np.ones((2, 8), np.int64),
}


@pytest.mark.parametrize("claim", Claim)
def test_holds_for_what_it_says(claim):
    assert claim.holds(VALUES[claim], SETTING)
    assert claim.holds(VALUES[claim][None], SETTING)


@pytest.mark.parametrize("claim", Claim)
def test_does_not_hold_for_other_numbers(claim):
    assert not claim.holds(VALUES[claim] + 1, SETTING)
    assert not claim.holds(np.append(VALUES[claim], 0), SETTING)


def test_one_row_may_stand_for_all():
    assert Claim.POSITIONS.holds(VALUES[Claim.POSITIONS][:1], SETTING)
    assert Claim.LAST.holds(np.array([7]), SETTING)


def test_padding_moves_positions():
    assert not Claim.POSITIONS.holds(VALUES[Claim.POSITIONS], Setting(2, 3, 5, padding=2))
