"""The figures of the page, as plotly takes them. Colours of text and paper are left to the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from tqc.eval.axis import short, ticks, tokens
from tqc.eval.colours import colour, family

from .attention_tables import share
from .results import AttentionCell, Cell, Results, Timing

GREY, OURS = "#8a8f98", "#2f6fd0"
PEERS = ("#7d6135", "#c0392b", "#3c8d5a", "#8a5fb5")
DASHES = ("dot", "dash", "dashdot", "longdash")


def figures(results: Results) -> list[tuple[str, go.Figure]]:
    """(heading, figure): the time of a step, and for kernels the bandwidth, for each layer and batch."""
    made = []
    for heads, batch in dict.fromkeys((cell.heads, cell.batch) for cell in results.steps):
        cells = [cell for cell in results.steps if (cell.heads, cell.batch) == (heads, batch)]
        about = f"{heads + ', ' if heads else ''}batch {batch}"
        if times := _times(cells):
            made.append((f"Time of a step, {about}", times))
        if isinstance(cells[0], AttentionCell) and (read := _bandwidth(cells)):
            made.append((f"Share of the copy bandwidth, {about}", read))
    return made


def _times(cells: Sequence[Cell]) -> go.Figure | None:
    """Medians as lines, minima as the lower ends of strokes; milliseconds over tokens, both logarithmic."""
    timings = [timing for cell in cells for timing in cell.timings if _compared(timing)]
    if not timings:
        return None
    low, high = min(t.minimum for t in timings) * 1e3, max(t.median for t in timings) * 1e3
    at = ticks(low / 1.3, high * 1.3)
    axis = {"type": "log", "title": {"text": "ms (median, and down to the minimum)"}}
    axis |= {"tickvals": at, "ticktext": [short(value) for value in at]}
    figure = _figure(cells, axis | {"range": [math.log10(low / 1.3), math.log10(high * 1.3)]})
    for name, places in _by_engine(cells).items():
        figure.add_scatter(
            x=[timing.tokens or cell.context for cell, timing in places],
            y=[timing.median * 1e3 for _, timing in places],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [0] * len(places),
                "arrayminus": [(timing.median - timing.minimum) * 1e3 for _, timing in places],
                "thickness": 1,
                "width": 3,
            },
            hovertemplate="%{x:,.0f} tokens: %{y:.4g} ms<extra>" + name + "</extra>",
            **_style(name, places[0][1], cells),
        )
    return figure


def _bandwidth(cells: Sequence[AttentionCell]) -> go.Figure | None:
    """What is read of the cache a second, against what a copy reads and writes; percent over tokens."""
    figure = _figure(cells, {"title": {"text": "% of the copy bandwidth"}, "rangemode": "tozero"})
    for name, places in _by_engine(cells).items():
        found = [(cell.context, part) for cell, timing in places if (part := share(timing, cell)) is not None]
        if found:
            figure.add_scatter(
                x=[context for context, _ in found],
                y=[100 * part for _, part in found],
                hovertemplate="%{x:,} tokens: %{y:.0f} %<extra>" + name + "</extra>",
                **_style(name, places[0][1], cells),
            )
    return figure if figure.data else None


def _compared(timing: Timing) -> bool:
    return bool(timing.rounds) and timing.kind in ("ours", "peer")


def _by_engine(cells: Sequence[Cell]) -> dict[str, list[tuple[Cell, Timing]]]:
    found: dict[str, list[tuple[Cell, Timing]]] = {}
    for cell in cells:
        for timing in cell.timings:
            if _compared(timing):
                found.setdefault(timing.name, []).append((cell, timing))
    return found


def _style(name: str, timing: Timing, cells: Sequence[Cell]) -> dict[str, Any]:
    """Ours in their scheme's colour, where the name is one; peers dashed."""
    line: dict[str, Any] = {"width": 2.5, "color": OURS if family(name) == "peer" else colour(name)}
    if timing.kind == "peer":
        peers = list(dict.fromkeys(t.name for cell in cells for t in cell.timings if t.kind == "peer"))
        number = peers.index(name)
        line = {"width": 2, "color": PEERS[number % len(PEERS)], "dash": DASHES[number % len(DASHES)]}
    return {"mode": "lines+markers", "name": name, "line": line, "marker": {"size": 7}}


def _figure(cells: Sequence[Cell], y_axis: dict[str, Any]) -> go.Figure:
    common = {"gridcolor": "rgba(138,143,152,0.25)", "zeroline": False, "linecolor": GREY, "automargin": True}
    contexts = sorted({cell.context for cell in cells})
    x_axis = {"type": "log", "title": {"text": "context (tokens of each sequence)"}}
    x_axis |= {"tickvals": contexts, "ticktext": [tokens(context) for context in contexts]}
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": 380,
            "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
            "dragmode": False,
            "xaxis": common | x_axis,
            "yaxis": common | y_axis,
        }
    )
