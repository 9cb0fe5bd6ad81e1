from __future__ import annotations

import pytest

from tqc.frontend.facts import SETTINGS
from tqc.frontend.sizes import Dim, fit, fit_shape


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (lambda s: 64, "64"),
        (lambda s: s.batch, "batch"),
        (lambda s: s.seq, "seq"),
        (lambda s: s.past, "past"),
        (lambda s: s.past + s.seq, "total"),
        (lambda s: s.batch * s.seq, "batch*seq"),
        (lambda s: 4 * s.batch, "4*batch"),
        (lambda s: 0, "0"),
    ],
)
def test_each_size_has_one_fit(size, expected):
    dim = fit([size(setting) for setting in SETTINGS], list(SETTINGS))
    assert str(dim) == expected
    assert [dim.at(setting) for setting in SETTINGS] == [size(setting) for setting in SETTINGS]


def test_other_courses_have_none():
    assert fit([s.seq + 1 for s in SETTINGS], list(SETTINGS)) is None
    assert fit([s.seq**2 for s in SETTINGS], list(SETTINGS)) is None


def test_shapes_of_varying_rank_have_none():
    shapes = [(2, 3)] * 3 + [(2, 3, 1)]
    assert fit_shape(shapes, list(SETTINGS)) is None
    assert fit_shape([(s.batch, 8) for s in SETTINGS], list(SETTINGS)) == (Dim(1, ("batch",)), Dim(8))
