from __future__ import annotations

import numpy as np
import pytest

from tqc.bench.fit import Line, break_even, fit


def line(slope: float, intercept: float) -> Line:
    return Line(slope=slope, intercept=intercept, points=2)


def test_points_on_a_line_give_it_back():
    found = fit([(x, 3e-9 * x + 2e-3) for x in (1024, 2048, 8192)])
    assert found.slope == pytest.approx(3e-9)
    assert found.intercept == pytest.approx(2e-3)
    assert found.error == pytest.approx(0, abs=1e-15)
    assert found.at(1000) == pytest.approx(2.003e-3)


def test_the_fit_and_its_error_are_numpys_with_relative_weights():
    rng = np.random.default_rng(0)
    x = np.array([1.0, 2, 5, 9, 14])
    y = 2 * x + 1 + rng.standard_normal(5)
    found = fit(list(zip(x.tolist(), y.tolist(), strict=True)))
    (slope, intercept), covariance = np.polyfit(x, y, 1, w=1 / y, cov=True)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept))
    assert found.error == pytest.approx(covariance[0, 0] ** 0.5)


def test_two_points_have_no_error_and_one_has_no_line():
    assert fit([(1, 1.0), (2, 2.0)]).error is None
    assert fit([(1, 1.0)]) is None
    assert fit([(1, 1.0), (1, 2.0)]) is None
    assert fit([]) is None
    assert fit([(1, 0.0), (2, 1.0)]) is None


def test_a_long_context_that_is_off_leaves_the_constant_alone():
    found = fit([(1000, 2e-3), (2000, 3e-3), (100_000, 1.3 * 0.101)])
    assert found.intercept == pytest.approx(1e-3, rel=0.4)


@pytest.mark.parametrize(
    ("ours", "peer", "where", "context"),
    [
        ((1, 3), (2, 1), "from", 2.0),
        ((2, 1), (1, 3), "until", 2.0),
        ((1, 1), (2, 2), "always", None),
        ((1, 1), (2, 1), "always", None),
        ((2, 2), (1, 1), "never", None),
        ((2, 1), (1, 1), "never", None),
        ((1, 1), (1, 2), "always", None),
        ((1, 2), (1, 1), "never", None),
        ((1, 1), (1, 1), "never", None),
    ],
)
def test_where_one_line_falls_below_another(ours, peer, where, context):
    found = break_even(line(*ours), line(*peer))
    assert (found.where, found.context) == (where, context)


def test_a_crossing_outside_of_what_was_measured_is_marked():
    ours, peer = line(1, 30), line(2, 10)
    assert not break_even(ours, peer, (10, 30)).beyond
    assert break_even(ours, peer, (30, 90)).beyond
    assert break_even(ours, peer, (1, 19)).beyond
