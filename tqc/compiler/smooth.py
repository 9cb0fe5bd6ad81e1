"""Measured costs of plain codes, freed of some of their noise.

What `tq2` … `tq8` cost differs from place to place, but by how much one of them costs less than another does not: their
errors point everywhere alike, and only their power differs. A measured cost has the noise of one draw of errors, so a
place's level is taken from all of its plain codes, and the steps between them from all places of a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .trial import Place

LEAST = 1e-15
"""Costs below have no logarithm to speak of."""


def smooth(costs: Mapping[Place, Mapping[str, float]], plain: Sequence[str]) -> dict[Place, dict[str, float]]:
    """The costs with those of the schemes `plain`, which each place has, by level and step."""
    found = {place: dict(of_place) for place, of_place in costs.items()}
    for side in "kv":
        places = [place for place in costs if place[1] == side]
        logs = np.log(np.maximum([[costs[place][name] for name in plain] for place in places], LEAST))
        levels = logs.mean(axis=1, keepdims=True)
        steps = np.median(logs - levels, axis=0)
        for place, level in zip(places, (logs - steps).mean(axis=1), strict=True):
            found[place] |= dict(zip(plain, np.exp(level + steps).tolist(), strict=True))
    return found
