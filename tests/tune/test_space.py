"""The order of trials."""

from __future__ import annotations

from stand_in import LAYOUT, TARGET

from tqc.compiler.configurations import space_of
from tqc.tune.space import nearest_first


def test_the_default_comes_first_then_what_differs_in_one_field():
    space = space_of(TARGET, "decode", LAYOUT)
    ordered = nearest_first(space)
    assert ordered[0] == space[0]
    assert set(ordered) == set(space)
    default = vars(space[0])
    distances = [sum(default[name] != value for name, value in vars(config).items()) for config in ordered]
    assert distances == sorted(distances)
    assert distances[1] == 1
