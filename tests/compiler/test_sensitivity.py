"""What one coded side of one layer changes in the predictions."""

from __future__ import annotations

from tqc.compiler.sensitivity import sensitivities


class Told:
    """A trial that changes by what it is told of a place."""

    places = ((0, "k"), (0, "v"), (1, "k"), (1, "v"))

    def divergence(self, schemes: dict) -> float:
        ((place, name),) = schemes.items()
        assert name == "tq3"
        return 1.0 + self.places.index(place)


def test_each_place_alone() -> None:
    assert sensitivities(Told(), "tq3") == {(0, "k"): 1.0, (0, "v"): 2.0, (1, "k"): 3.0, (1, "v"): 4.0}
