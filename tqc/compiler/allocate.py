"""Bits where they do most good: one choice for each place, the sum of the costs smallest within a budget of bits.

Costs are taken to add up. Along the lower convex hull of each place's choices the best allocations of all budgets are
nested, so a greedy walk that always takes the steepest step finds them (Shoham & Gersho 1988); only the last step,
which may not fit, can leave bits over.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TypeVar

from tqc.errors import PassError

Place = TypeVar("Place", bound=Hashable)


@dataclass(frozen=True)
class Choice:
    """A scheme, the bits that it takes at its place, and what it is predicted to cost there."""

    name: str
    bits: float
    cost: float


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of cost over bits, cheapest in bits first; each next one costs less."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bits, c.cost, c.name)):
        if kept and choice.cost >= kept[-1].cost:
            continue
        while len(kept) > 1 and _gain(kept[-2], choice) >= _gain(kept[-2], kept[-1]):
            kept.pop()
        kept.append(choice)
    return kept


def allocate(choices: Mapping[Place, Sequence[Choice]], budget: float) -> dict[Place, Choice]:
    """One choice for each place, at most `budget` bits in all. Raises PassError if the fewest bits are more than that.

    Every place starts with its fewest bits; then the step with the largest gain per bit is taken as long as one fits.
    """
    hulls = {place: hull(of_place) for place, of_place in choices.items()}
    at = dict.fromkeys(hulls, 0)
    used = sum(found[0].bits for found in hulls.values())
    if used > budget:
        raise PassError("the budget is too small", expected=f"at least {used:g} bits", found=f"{budget:g}")
    # Equal gains are taken in the order of the places, so that the same input always gives the same plan.
    order = {place: number for number, place in enumerate(hulls)}
    steps = [(-_gain(*found[:2]), order[place], place) for place, found in hulls.items() if len(found) > 1]
    heapify(steps)
    while steps:
        _, _, place = heappop(steps)
        found, here = hulls[place], at[place]
        more = found[here + 1].bits - found[here].bits
        if used + more > budget:
            continue  # no later step of this place can be taken either, but another place's may be smaller
        used += more
        at[place] = here + 1
        if here + 2 < len(found):
            heappush(steps, (-_gain(*found[here + 1 : here + 3]), order[place], place))
    return {place: hulls[place][number] for place, number in at.items()}


def _gain(fewer: Choice, more: Choice) -> float:
    """Cost saved per bit, from a choice to one with more bits."""
    if more.bits == fewer.bits:
        return float("inf")
    return (fewer.cost - more.cost) / (more.bits - fewer.bits)
