"""Heat maps of needles and the rate–fidelity plot as plain SVG, for pages and documents without scripts.

Geometry is computed here and written by two small templates; the same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jinja2

from .axis import short, ticks, tokens
from .colours import FAMILIES, ink, share_colour
from .needles import Needles, Panel, axes
from .points import Point, Points, curves, front, point_colour

CELL_W, CELL_H, LEFT, TOP, BOTTOM, GAP = 44, 24, 46, 26, 36, 18
COLUMNS = 3
GREY = "#6b717b"


@lru_cache
def environment() -> jinja2.Environment:
    """Where the templates are found; everything that is put in is escaped."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("tqc.eval", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True)
class Drawn:
    """A panel as the template takes it: cells with place, colour and words. Sizes in pixels; `middle`: of the cells."""

    title: str
    note: str
    width: int
    height: int
    middle: float
    lengths: list[tuple[float, str]]
    depths: list[tuple[float, str]]
    cells: list[dict[str, Any]]


def draw_panels(panels: Sequence[Panel]) -> list[Drawn]:
    """Every panel with the lengths and depths of all of them, so that places can be compared."""
    lengths, depths = axes(panels)
    # A name and the share beside it must fit above the cells, however few there are.
    longest = max(len(panel.cache) for panel in panels)
    width = max(LEFT + CELL_W * len(lengths) + 2, 9 * longest + 70)
    height = TOP + CELL_H * len(depths) + BOTTOM
    return [
        Drawn(
            title=panel.cache,
            note=f"{100 * panel.score:.1f} %",
            width=width,
            height=height,
            lengths=[(LEFT + CELL_W * (n + 0.5), tokens(length)) for n, length in enumerate(lengths)],
            middle=LEFT + CELL_W * len(lengths) / 2,
            depths=[(TOP + CELL_H * (n + 0.5), f"{100 * depth:.0f} %") for n, depth in enumerate(depths)],
            cells=[
                _cell(panel.at(length, depth), LEFT + CELL_W * column, TOP + CELL_H * row, length, depth)
                for row, depth in enumerate(depths)
                for column, length in enumerate(lengths)
            ],
        )
        for panel in panels
    ]


def _cell(share: float | None, x: int, y: int, length: int, depth: float) -> dict[str, Any]:
    place = f"{length:,} tokens, depth {100 * depth:.0f} %"
    fill = "none" if share is None else share_colour(share)
    return {
        "x": x,
        "y": y,
        "fill": fill,
        "ink": GREY if share is None else ink(fill),
        "text": "–" if share is None else f"{100 * share:.0f}",
        "title": f"{place}: not asked" if share is None else f"{place}: {100 * share:.1f} % found",
    }


def needle_svg(needles: Needles) -> str:
    """All panels in one drawing, with what the longest text cost under each name."""
    drawn = draw_panels(needles.panels)
    columns = min(COLUMNS, len(drawn))
    width, height = drawn[0].width + GAP, drawn[0].height + 2 * GAP
    placed = [
        (GAP + number % columns * width, 64 + number // columns * height, panel, cost_text(source))
        for number, (panel, source) in enumerate(zip(drawn, needles.panels, strict=True))
    ]
    return (
        environment()
        .get_template("needle.svg.j2")
        .render(
            panels=placed,
            width=columns * width + GAP,
            height=64 + -(-len(drawn) // columns) * height,
            title="Needles found, by length of the text and depth in it"
            + (f": {needles.model}" if needles.model else ""),
            cell_w=CELL_W,
            cell_h=CELL_H,
        )
    )


def cost_text(panel: Panel) -> str:
    """Memory and speed at the longest text, in a few words; empty if they were not measured."""
    cost = panel.longest
    if cost is None:
        return ""
    speed = f", {cost.tokens_per_second:,.3g} tokens/s" if cost.tokens_per_second else ""
    return f"{cost.cache_bytes / 1e6:,.1f} MB at {tokens(cost.length)}{speed}"


@dataclass
class _Labels:
    """Boxes that are taken, so that no name is written over another or over a marker."""

    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def place(self, x: float, y: float, text: str) -> tuple[float, float, str] | None:
        """Where the text goes beside a marker, and its anchor; None if there is no room."""
        wide = 7.8 * len(text)
        for dx, dy, anchor in (
            (8, -5, "start"),
            (8, 12, "start"),
            (-8, 12, "end"),
            (-8, -5, "end"),
            (0, -10, "middle"),
        ):
            left = x + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
            box = (left, y + dy - 10, left + wide, y + dy + 2)
            if all(b[2] <= box[0] or box[2] <= b[0] or b[3] <= box[1] or box[3] <= b[1] for b in self.taken):
                self.taken.append(box)
                return x + dx, y + dy, anchor
        return None


WIDTH, HEIGHT, MARGIN = 940, 560, {"left": 76, "right": 214, "top": 56, "bottom": 52}


def pareto_svg(points: Points) -> str:
    """KL against bits of a number, on a logarithmic axis, with the front as a broad line and peers as squares."""
    shown = [point for point in points.points if point.kl]
    x_of, y_of, x_ticks, y_ticks = _scales(shown)
    labels = _Labels([(x_of(p) - 5, y_of(p) - 5, x_of(p) + 5, y_of(p) + 5) for p in shown])
    best = front(shown)
    named = [*best, *(point for point in shown if point not in best)]
    return (
        environment()
        .get_template("pareto.svg.j2")
        .render(
            width=WIDTH,
            height=HEIGHT,
            margin=MARGIN,
            title="KL against bits of a number" + (f": {points.model}" if points.model else ""),
            front=[(x_of(point), y_of(point)) for point in best],
            curves=[_curve(key, members, x_of, y_of) for key, members in curves(shown).items()],
            names=[(*at, point.name) for point in named if (at := labels.place(x_of(point), y_of(point), point.name))],
            x_ticks=x_ticks,
            y_ticks=y_ticks,
        )
    )


def _scales(points: Sequence[Point]) -> tuple[Any, Any, list[tuple[float, str]], list[tuple[float, str]]]:
    """Functions of a point that give its place, and the ticks of both axes."""
    bits, kls = [p.bits_per_value for p in points], [p.kl for p in points]
    first, last = math.floor(min(bits)), math.ceil(max(bits) + 0.25)
    low, high = min(kls) / 1.5, max(kls) * 1.5
    wide, tall = WIDTH - MARGIN["left"] - MARGIN["right"], HEIGHT - MARGIN["top"] - MARGIN["bottom"]

    def x(value: float) -> float:
        return round(MARGIN["left"] + wide * (value - first) / (last - first), 1)

    def y(value: float) -> float:
        return round(MARGIN["top"] + tall * math.log(high / value) / math.log(high / low), 1)

    across = [(x(value), str(value)) for value in range(first, last + 1)]
    up = [(y(value), short(value)) for value in ticks(low, high)]
    return (lambda point: x(point.bits_per_value)), (lambda point: y(point.kl)), across, up


def _curve(key: tuple[str, str], members: list[Point], x_of: Any, y_of: Any) -> dict[str, Any]:
    kind, name = key
    shades = [point_colour(point) for point in members]
    return {
        "peer": kind == "peer",
        "line": name != "tq pair",
        "name": FAMILIES.get(name, name),
        "colour": shades[len(shades) // 2],
        "markers": [(x_of(p), y_of(p), shade, p.name) for p, shade in zip(members, shades, strict=True)],
    }
