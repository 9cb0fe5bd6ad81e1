"""Bits go where they do most good."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tqc.compiler.allocate import Choice, allocate, hull
from tqc.errors import PassError

tables = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 10)), min_size=1, max_size=4), min_size=1, max_size=4
)


def choices(table: list[list[tuple[int, float]]]) -> dict[int, list[Choice]]:
    return {place: [Choice(f"{b}/{c}", b, c) for b, c in entries] for place, entries in enumerate(table)}


@given(tables)
def test_the_hull_is_convex_and_falls(table) -> None:
    for found in (hull(of_place) for of_place in choices(table).values()):
        gains = [(a.cost - b.cost) / (b.bits - a.bits) for a, b in pairwise(found)]
        assert all(gain > 0 for gain in gains)
        assert gains == sorted(gains, reverse=True)


@given(tables, st.integers(4, 40))
def test_nothing_within_the_same_bits_is_better(table, budget: int) -> None:
    """At the number of bits that was used, no combination costs less."""
    places = choices(table)
    if sum(min(c.bits for c in of_place) for of_place in places.values()) > budget:
        with pytest.raises(PassError, match="too small"):
            allocate(places, budget)
        return
    found = allocate(places, budget)
    used, cost = (sum(getattr(c, key) for c in found.values()) for key in ("bits", "cost"))
    assert used <= budget
    chosen = [hull(of_place) for of_place in places.values()]
    within = [combo for combo in product(*chosen) if sum(c.bits for c in combo) <= used]
    best = min(sum(c.cost for c in combo) for combo in within)
    # A step that did not fit may have been followed by smaller ones: then it is the greedy walk's own allocation.
    last = max((b.bits - a.bits for h in chosen for a, b in pairwise(h)), default=0)
    assert cost <= best + 1e-9 or used + last > budget


def test_a_sensitive_place_gets_more() -> None:
    rate = {bits: 4.0**-bits for bits in range(1, 9)}
    places = {
        name: [Choice(f"tq{b}", b, weight * d) for b, d in rate.items()] for name, weight in (("a", 1), ("b", 64))
    }
    found = allocate(places, 8)
    assert found["b"].bits - found["a"].bits in (2, 3, 4)
    assert found["a"].bits + found["b"].bits == 8
