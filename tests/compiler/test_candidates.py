"""Assignments to try: within the budget, each once, with and without trust in the weights."""

from __future__ import annotations

import pytest

from tqc.compiler.allocate import Choice
from tqc.compiler.candidates import TRUST, UNIFORM, candidates, tempered, uniform_pairs, weighed
from tqc.errors import PassError

MENU = {"a": (2, 16.0), "b": (3, 4.0), "c": (4, 1.0), "d": (3, 3.0)}
CHOICES = {
    (layer, side): [Choice(name, bits, cost * (layer + 1)) for name, (bits, cost) in MENU.items()]
    for layer in range(4)
    for side in "kv"
}
WEIGHTS = {(layer, side): 10.0 ** (layer - (side == "v")) for layer, side in CHOICES}


def bits(assignment: dict) -> float:
    return sum(MENU[name][0] for name in assignment.values())


@pytest.mark.parametrize("budget", [16, 17, 20, 23.5, 24, 32])
def test_all_fit_and_none_comes_twice(budget: float) -> None:
    found = candidates(CHOICES, "b", WEIGHTS, budget)
    assert found
    assert all(set(x) == set(CHOICES) and bits(x) <= budget for x in found.values())
    assert len({tuple(x.items()) for x in found.values()}) == len(found)


def test_first_what_trusts_the_weights_last_what_is_the_same_everywhere() -> None:
    found = candidates(CHOICES, "b", WEIGHTS, 24)
    labels = list(found)
    assert labels[0].endswith(f"power {max(TRUST):g}")
    uniform = [label for label in labels if "in all layers" in label]
    assert 0 < len(uniform) <= UNIFORM
    assert labels[-len(uniform) :] == uniform
    for label in uniform:
        assert len({(side, name) for (_, side), name in found[label].items()}) == 2
    heavy, light = found[labels[0]][3, "k"], found[labels[0]][0, "v"]
    assert MENU[heavy][0] > MENU[light][0]


def test_a_budget_that_nothing_meets() -> None:
    with pytest.raises(PassError, match="budget is too small"):
        candidates(CHOICES, "b", WEIGHTS, 15)


def test_costs_in_proportion_to_the_probe() -> None:
    for place, of_place in weighed(CHOICES, "b", WEIGHTS).items():
        costs = {x.name: x.cost for x in of_place}
        assert costs["b"] == pytest.approx(WEIGHTS[place])
        assert costs["a"] == pytest.approx(4 * WEIGHTS[place])


def test_trust_draws_to_the_mean_of_a_side() -> None:
    assert tempered(WEIGHTS, 1) == pytest.approx(WEIGHTS)
    assert tempered(WEIGHTS, 0) == pytest.approx({place: 10**1.5 / (10 if place[1] == "v" else 1) for place in WEIGHTS})
    half = tempered(WEIGHTS, 0.5)
    assert half[3, "k"] / half[0, "k"] == pytest.approx(10**1.5)
    assert all(weight > 0 for weight in tempered(dict.fromkeys(WEIGHTS, 0.0), 0.5).values())


def test_uniform_pairs_from_the_least_cost_on() -> None:
    pairs = uniform_pairs(CHOICES, 24)
    # 4 layers of 6 bits: c with a, and all pairs of fewer bits.
    assert pairs[0] == ("d", "d")
    assert set(pairs) == {(k, v) for k in MENU for v in MENU if MENU[k][0] + MENU[v][0] <= 6}
    assert uniform_pairs(CHOICES | {(0, "k"): [Choice("a", 2, 1.0)]}, 24)[0][0] == "a"
    assert uniform_pairs(CHOICES, 15) == []
