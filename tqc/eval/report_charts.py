"""The interactive figures of a report, as plotly takes them. Colours of text and paper are left to the page.

Every figure works at 360 pixels: legends lie above, labels inside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from .axis import short, ticks, tokens
from .colours import FAMILIES, colour
from .points import Point, curves, front, point_colour
from .report_memory import GB, GPUS, cache_bytes, fp16_bytes, lengths, weights
from .results import LayerResult
from .subjects import Subject

GREY = "#8a8f98"
GRID = "rgba(138,143,152,0.25)"
SYMBOLS = {"k": "circle", "v": "diamond-open"}
SHAPES = {"tq pair": "diamond"}


def _figure(height: int, **axes: Any) -> go.Figure:
    figure = go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "margin": {"l": 64, "r": 16, "t": 16, "b": 52},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
            "hovermode": "closest",
            "dragmode": False,
        }
    )
    common = {"gridcolor": GRID, "zeroline": False, "linecolor": GREY, "ticks": "outside", "tickcolor": GREY}
    common |= {"automargin": True}
    for axis in axes.values():
        axis["title"] |= {"standoff": 10, "font": {"size": 12.5}}
    return figure.update_layout({name: {**common, **axis} for name, axis in axes.items()})


def _log_axis(title: str, low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis a little wider than its values, half a decade at least."""
    room = max(1.4, (3.2 / (high / low)) ** 0.5)
    low, high = low / room, high * room
    at = ticks(low, high)
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "title": {"text": title},
        "tickvals": at,
        "ticktext": [short(value) for value in at],
    }


def distortion(layers: Sequence[LayerResult], span: tuple[float, float]) -> go.Figure:
    """Relative squared error of each layer's keys and values, and what Lloyd–Max theory gives; `span`: least and
    largest error of all figures that stand side by side."""
    figure = _figure(340, xaxis={"title": {"text": "layer"}}, yaxis=_log_axis("D = Σ|x − x̃|² / Σ|x|²", *span))
    for side in "kv":
        shown = [layer for layer in layers if getattr(layer, f"d_{side}")]
        _dots(figure, shown, f"d_{side}", f"{side.upper()} measured", SYMBOLS[side], side)
        theory = [layer for layer in shown if getattr(layer, f"theory_{side}")]
        _bars(figure, theory, f"theory_{side}", f"{side.upper()} theory", side)
    return figure


def noise(layers: Sequence[LayerResult], span: tuple[float, float]) -> go.Figure:
    """Standard deviation of the attention logits' error in each layer, and what the law gives."""
    figure = _figure(340, xaxis={"title": {"text": "layer"}}, yaxis=_log_axis("sd of Δlogit (nat)", *span))
    _dots(figure, [layer for layer in layers if layer.logit_sd], "logit_sd", "measured", "circle", "k")
    _bars(figure, [layer for layer in layers if layer.logit_law], "logit_law", "‖q‖‖k‖√D·scale/√d", "k")
    return figure


def span(results: Sequence[Sequence[LayerResult]], fields: Sequence[str]) -> tuple[float, float] | None:
    """Least and largest value above 0 of some fields over all layers of all artifacts; None if there is none."""
    values = [getattr(layer, field) for layers in results for layer in layers for field in fields]
    values = [value for value in values if value]
    return (min(values), max(values)) if values else None


def _dots(figure: go.Figure, layers: Sequence[LayerResult], field: str, name: str, symbol: str, side: str) -> None:
    figure.add_scatter(
        x=[layer.layer for layer in layers],
        y=[getattr(layer, field) for layer in layers],
        customdata=[getattr(layer, side) for layer in layers],
        mode="markers",
        name=name,
        marker={"symbol": symbol, "size": 8, "color": [colour(getattr(layer, side)) for layer in layers]},
        hovertemplate="layer %{x}, %{customdata}<br>%{y:.4g}<extra>" + name + "</extra>",
    )


def _bars(figure: go.Figure, layers: Sequence[LayerResult], field: str, name: str, side: str) -> None:
    """Short strokes: a value for each layer that is not measured."""
    figure.add_scatter(
        x=[layer.layer for layer in layers],
        y=[getattr(layer, field) for layer in layers],
        mode="markers",
        name=name,
        marker={"symbol": "line-ew", "size": 8, "line": {"width": 2, "color": GREY if side == "k" else "#b98a3e"}},
        hovertemplate="layer %{x}<br>%{y:.4g}<extra>" + name + "</extra>",
    )


def rate(points: Sequence[Point]) -> go.Figure:
    """KL against bits of a number: a line for each family, the Pareto front under them, names at the front."""
    shown = [point for point in points if point.kl]
    best = front(shown)
    low, high = _bounds([point.bits_per_value for point in shown])
    figure = _figure(
        520,
        # Room for the names at the right.
        xaxis={"title": {"text": "bits per number of the cache, scales included"}, "range": [low - 0.3, high + 0.8]},
        yaxis=_log_axis("KL to the exact cache (nat per token)", *_bounds([point.kl for point in shown])),
    )
    figure.add_scatter(
        x=[point.bits_per_value for point in best],
        y=[point.kl for point in best],
        mode="lines",
        name="Pareto front",
        line={"width": 14, "color": "rgba(138,143,152,0.28)"},
        hoverinfo="skip",
    )
    for key, members in curves(shown).items():
        _curve(figure, key, members, {id(point) for point in best})
    return figure


def _curve(figure: go.Figure, key: tuple[str, str], members: list[Point], best: set[int]) -> None:
    peer = key[0] == "peer"
    name = FAMILIES.get(key[1], key[1]) + " (codec only in evaluation)" * peer
    colours = [point_colour(point) for point in members]
    figure.add_scatter(
        x=[point.bits_per_value for point in members],
        y=[point.kl for point in members],
        text=[point.name if peer or id(point) in best else "" for point in members],
        customdata=[[point.name, _said(point)] for point in members],
        mode="markers+text" if key[1] == "tq pair" else "lines+markers+text",
        textposition="top right",
        textfont={"size": 11},
        name=name,
        line={"width": 1.5, "color": colours[len(colours) // 2], "dash": "dot" if peer else "solid"},
        marker={"size": 9, "color": colours, "symbol": "square-open" if peer else SHAPES.get(key[1], "circle")},
        hovertemplate="%{customdata[0]}<br>%{x:.3f} bits, KL %{y:.3g}%{customdata[1]}<extra></extra>",
    )


def _said(point: Point) -> str:
    parts = [
        f"{100 * point.agreement:.2f} % same next token" if point.agreement is not None else None,
        f"perplexity {100 * point.perplexity_change:+.2f} %" if point.perplexity_change is not None else None,
        f"{point.bytes_per_token:,.0f} B a token" if point.bytes_per_token is not None else None,
    ]
    return "".join(f"<br>{part}" for part in parts if part)


def _bounds(values: list[float]) -> tuple[float, float]:
    return min(values), max(values)


def memory(subjects: Sequence[Subject]) -> go.Figure:
    """Bytes of one sequence's cache against its length, GPUs less the largest of the weights as lines across."""
    at = lengths([subject.manifest for subject in subjects])
    lowest = min(cache_bytes(subject.manifest, at[0]) for subject in subjects) / GB
    octaves = [1 << exponent for exponent in range(10, at[-1].bit_length()) if exponent % 2 == 0]
    figure = _figure(
        520,
        xaxis={
            "type": "log",
            "title": {"text": "context of one sequence (tokens)"},
            "tickvals": octaves,
            "ticktext": [tokens(count) for count in octaves],
        },
        yaxis=_log_axis("cache (GB)", lowest, GPUS[-1][1]),
    )
    exact = max(subjects, key=lambda subject: fp16_bytes(subject.manifest, 1))
    lines = [("fp16, uncompressed", colour("fp16"), "longdashdot", exact.manifest, fp16_bytes)]
    lines += [(s.name, s.colour, s.dash, s.manifest, cache_bytes) for s in subjects]
    for name, shade, dash, manifest, size in lines:
        figure.add_scatter(
            x=at,
            y=[size(manifest, count) / GB for count in at],
            customdata=[tokens(count) for count in at],
            mode="lines",
            name=name,
            line={"width": 2.5, "color": shade, "dash": dash},
            hovertemplate="%{customdata} tokens: %{y:.3g} GB<extra>" + name + "</extra>",
        )
    figure.add_scatter(
        x=[subject.manifest.max_context for subject in subjects],
        y=[cache_bytes(subject.manifest, subject.manifest.max_context) / GB for subject in subjects],
        mode="markers",
        name="longest context compiled for",
        marker={"size": 10, "symbol": "circle", "color": [subject.colour for subject in subjects]},
        hovertemplate="compiled for %{x:,} tokens: %{y:.3g} GB<extra></extra>",
    )
    _gpus(figure, max(weights(subject.manifest) for subject in subjects) / GB)
    return figure


def _gpus(figure: go.Figure, taken: float) -> None:
    """Lines across; names at alternate ends, since neighbours are close on a logarithmic axis."""
    for number, (name, gigabytes) in enumerate(GPUS):
        left = gigabytes - taken
        if left <= 0:
            continue
        figure.add_shape(
            type="line", xref="paper", x0=0, x1=1, y0=left, y1=left, line={"width": 1, "dash": "dot", "color": GREY}
        )
        right = number % 2
        figure.add_annotation(
            text=f"{name} {gigabytes} GB",
            xref="paper",
            x=right,
            xanchor="right" if right else "left",
            y=math.log10(left),
            yanchor="bottom",
            showarrow=False,
            font={"size": 10},
        )
