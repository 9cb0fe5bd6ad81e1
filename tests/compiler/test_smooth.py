"""Costs of plain codes with less noise: levels of places, steps of a side."""

from __future__ import annotations

import numpy as np
import pytest

from tqc.compiler.smooth import smooth

STEPS = {"k": [1.0, 0.2, 0.05], "v": [1.0, 0.3, 0.06]}
LEVELS = {(layer, side): 10.0 ** -(layer / 10 + (side == "v")) for layer in range(40) for side in "kv"}
PLAIN = ("x", "y", "z")


def costs(noise: float) -> dict:
    random = np.random.default_rng(0)
    return {
        place: {"bands": 7.0}
        | {
            name: level * step * np.exp(noise * random.standard_normal())
            for name, step in zip(PLAIN, STEPS[place[1]], strict=True)
        }
        for place, level in LEVELS.items()
    }


def error(found: dict) -> float:
    true = costs(0)
    return float(np.std([np.log(found[place][name] / true[place][name]) for place in true for name in PLAIN]))


def test_without_noise_nothing_changes() -> None:
    found = smooth(costs(0), PLAIN)
    for place, of_place in costs(0).items():
        assert found[place] == pytest.approx(of_place)


def test_less_noise_and_bands_as_they_are() -> None:
    noisy = costs(0.5)
    found = smooth(noisy, PLAIN)
    assert error(found) < 0.75 * error(noisy)
    assert all(of_place["bands"] == 7.0 for of_place in found.values())


def test_costs_of_zero() -> None:
    assert all(
        np.isfinite(x)
        for y in smooth({place: dict.fromkeys(PLAIN, 0.0) for place in LEVELS}, PLAIN).values()
        for x in y.values()
    )
