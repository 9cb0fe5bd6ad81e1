"""Rate and fidelity of caches: what each costs in memory and how far it is from the exact one; the Pareto front.

A file of points is a JSON object:

    {"benchmark": …, "date": …, "command": …, "machine": {…}, "method": …,     as benchmarks/report.py writes them
     "model": "SmolLM2-135M-Instruct", "values_per_token": 11520,
     "points": [{"name": "tq4", "kind": "ours", "family": "tq", "bits_per_value": 4.25, "bytes_per_token": 6120,
                 "kl": 0.0017, "agreement": 0.98, "perplexity_change": 0.0024}, …]}

`values_per_token` counts the numbers of a token's keys and values in all layers, so that bytes and bits can be
converted; a point may then leave one of them out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from .colours import colour, family
from .measured import Measured, Part, read

MADE_BY = "python benchmarks/pareto.py"


class Point(Part):
    """One cache. Bits include scales; `kl` is nats a token, `agreement` a share, `perplexity_change` 0.01 for 1 %.

    A `peer` is another project's format that exists here as a codec of the evaluation only. Points of one `family`
    are joined by a line.
    """

    name: str
    kind: Literal["ours", "peer"] = "ours"
    family: str = ""
    bits_per_value: Annotated[float, Field(gt=0)] | None = None
    bytes_per_token: Annotated[float, Field(gt=0)] | None = None
    kl: Annotated[float, Field(ge=0)]
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    perplexity_change: float | None = None


class Points(Measured):
    """Points of one model over one text; every one of them has `bits_per_value`."""

    model: str = ""
    values_per_token: Annotated[int, Field(gt=0)] | None = None
    points: Annotated[tuple[Point, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _rates(self) -> Points:
        if lacking := [point.name for point in self.points if self._bits(point) is None]:
            names = ", ".join(lacking)
            raise ValueError(f"{names}: bits_per_value is missing, and there are no values_per_token to convert with")
        complete = tuple(
            point.model_copy(update={"bits_per_value": self._bits(point), "bytes_per_token": self._bytes(point)})
            for point in self.points
        )
        object.__setattr__(self, "points", complete)
        return self

    def _bits(self, point: Point) -> float | None:
        if point.bits_per_value is not None or point.bytes_per_token is None or self.values_per_token is None:
            return point.bits_per_value
        return 8 * point.bytes_per_token / self.values_per_token

    def _bytes(self, point: Point) -> float | None:
        if point.bytes_per_token is not None or point.bits_per_value is None or self.values_per_token is None:
            return point.bytes_per_token
        return point.bits_per_value * self.values_per_token / 8


def read_points(path: Path) -> Points:
    """The points of a file. Raises TqcError when it cannot be read."""
    return read(path, Points, MADE_BY)


def curves(points: Sequence[Point]) -> dict[tuple[str, str], list[Point]]:
    """The points of each (kind, family) from few bits to many, ours first."""
    found: dict[tuple[str, str], list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.kind == "peer", point.bits_per_value, point.name)):
        found.setdefault((point.kind, point.family or _family(point)), []).append(point)
    return found


def _family(point: Point) -> str:
    """That of the scheme. Peers without one are named like kivi4-64 or q8_0: the number of bits is left out."""
    if point.kind == "peer":
        return re.sub(r"^([A-Za-z]+)[-_]?\d+", r"\1", point.name)
    # Between tq3 and tq4 lies no line to k4v3: pairs go a way of their own.
    apart = family(point.name) == "tq" and not re.fullmatch(r"tq\d", point.name.split()[0])
    return "tq pair" if apart else family(_scheme(point))


def _scheme(point: Point) -> str:
    """What decides the colour: of ours without a scheme's name, which are plans, that of mixed layers."""
    if point.kind == "peer":
        return "peer"
    return "mixed" if family(point.name) == "peer" else point.name


def point_colour(point: Point) -> str:
    """`#rrggbb`: that of the scheme, shaded by its name where that says how many bits it has."""
    scheme = _scheme(point)
    return colour(scheme) if scheme == point.name else colour(scheme, point.bits_per_value)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in bits and KL at once, from few bits to many. All need `bits_per_value`."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bits_per_value, point.kl)):
        if not best or point.kl < best[-1].kl:
            best.append(point)
    return best
