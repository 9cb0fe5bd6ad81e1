"""Whole assignments of schemes that a plan is chosen from, best guesses first.

A sum of costs only comes near what an assignment does to the predictions, and the weights in it hold for the text that
they were measured over. So there are allocations that trust the weights more and less, and pairs of schemes that are
the same in all layers, which take nothing of single layers on trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from .allocate import Choice, allocate
from .trial import Place

Assignment = dict[Place, str]
"""(layer, side) → scheme."""

TRUST = (0.75, 0.5)
"""Powers that weights are raised to, about their side's geometric mean. A layer that is far from the mean over one text
is seldom as far over the next: logarithms of weights of SmolLM2 over another text followed those over ours with slopes
of 0.5 to 0.7. The trial cannot find that out, as it is over the text of the weights, and so 1 is not among them."""

UNIFORM = 3
"""Uniform pairs that are tried: those with the least summed cost."""


def tempered(weights: Mapping[Place, float], trust: float) -> dict[Place, float]:
    """The weights drawn towards the geometric mean of their side: `trust` 1 leaves them, 0 gives the mean."""
    logs = {place: float(np.log(max(weight, 1e-12))) for place, weight in weights.items()}
    means = {side: np.mean([log for place, log in logs.items() if place[1] == side]) for side in "kv"}
    return {place: float(np.exp(trust * log + (1 - trust) * means[place[1]])) for place, log in logs.items()}


def candidates(
    choices: Mapping[Place, Sequence[Choice]], probe: str, weights: Mapping[Place, float], budget: float
) -> dict[str, Assignment]:
    """What it is → an assignment of at most `budget` bits in all; equal ones only once.

    A place's costs are taken in proportion, that of `probe` being its weight. Raises PassError if the fewest bits are
    more than the budget.
    """
    found: dict[str, Assignment] = {}

    def add(label: str, assignment: Assignment) -> None:
        if assignment not in found.values():
            found[label] = assignment

    for trust in TRUST:
        costly = weighed(choices, probe, tempered(weights, trust))
        label = f"layers weighed by what they change in the predictions, to the power {trust:g}"
        add(label, {place: choice.name for place, choice in allocate(costly, budget).items()})
    for k, v in uniform_pairs(weighed(choices, probe, weights), budget)[:UNIFORM]:
        add(f"k:{k},v:{v} in all layers", {place: k if place[1] == "k" else v for place in choices})
    return found


def weighed(
    choices: Mapping[Place, Sequence[Choice]], probe: str, weights: Mapping[Place, float]
) -> dict[Place, list[Choice]]:
    """The choices with their costs in proportion, that of the probe being the place's weight."""
    made = {}
    for place, of_place in choices.items():
        (unit,) = (choice.cost for choice in of_place if choice.name == probe)
        factor = max(weights[place], 0.0) / unit if unit else 0.0
        made[place] = [Choice(x.name, x.bits, x.cost * factor) for x in of_place]
    return made


def uniform_pairs(choices: Mapping[Place, Sequence[Choice]], budget: float) -> list[tuple[str, str]]:
    """Pairs (K, V) of schemes that all places have and that fit the budget, from the least summed cost on."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    for side in "kv":
        places = [{x.name: x for x in of_place} for (_, s), of_place in choices.items() if s == side]
        names = [name for name in places[0] if all(name in place for place in places)]
        sums[side] = {name: sum(np.array([p[name].cost, p[name].bits]) for p in places) for name in names}
    totals = {(k, v): sums["k"][k] + sums["v"][v] for k, v in product(*(sums[side] for side in "kv"))}
    fitting = [pair for pair, (_, bits) in totals.items() if bits <= budget]
    return sorted(fitting, key=lambda pair: tuple(totals[pair]))
