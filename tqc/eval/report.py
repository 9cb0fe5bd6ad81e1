"""A report of artifacts as one HTML page that loads nothing: from manifests, evaluations, points and needles.

What was not measured is left out with a line that says which command measures it. Without figures (`interactive`
False) the page needs no script, is small, and depends on the artifacts alone: the same artifact gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqc.artifact import Manifest
from tqc.artifact.embed import without_report

from .drawing import CELL_H, CELL_W, cost_text, draw_panels, environment
from .measured import Measured
from .needles import Needles, Panel, read_needles
from .points import Point, Points, front, read_points
from .report_tables import context_rows, fit_rows, layer_rows, origins, size, strip, summary
from .subjects import Subject, read_subjects

NEEDLES_BY = "tqc eval ARTIFACT --only retrieval -o RESULTS.json"
POINTS_BY = "tqc eval A.tqc --reference EXACT.tqc -o A.json, the same of B.tqc, tqc report A.tqc B.tqc --eval …"
LAYERS_BY = "tqc eval ARTIFACT -o RESULTS.json, then tqc report ARTIFACT --eval RESULTS.json"


@dataclass(frozen=True)
class Report:
    """What a page shows. `made` is the time it was made, `command` how; both empty in a page without a clock."""

    subjects: Sequence[Subject]
    points: Points | None = None
    needles: Needles | None = None
    made: str = ""
    command: str = ""


def read_report(
    artifacts: Sequence[Path],
    evaluations: Sequence[Path] = (),
    points: Path | None = None,
    needles: Path | None = None,
    *,
    made: str = "",
    command: str = "",
) -> Report:
    """The report of artifact directories and files of results. Raises TqcError for what cannot be read."""
    subjects = read_subjects(artifacts, evaluations)
    rated = read_points(points) if points else _own_points(subjects)
    return Report(subjects, rated, read_needles(needles) if needles else None, made, command)


def first_page(manifest: Manifest) -> bytes:
    """The report that compiling puts into an artifact: without figures and clock, and without its folder's name."""
    subject = Subject(Path(manifest.source.file).stem, without_report(manifest))
    return render(Report([subject]), interactive=False).encode()


def _own_points(subjects: Sequence[Subject]) -> Points | None:
    """The artifacts themselves as points, if two or more were compared with one reference over one text."""
    measured = [
        subject
        for subject in subjects
        if subject.results and subject.results.fidelity and subject.results.fidelity.kl is not None
    ]
    compared = {(s.results.reference and s.results.reference.digest, s.results.text) for s in measured}
    if len(measured) < 2 or len(compared) != 1:
        return None
    schemes = [subject.schemes for subject in measured]
    return Points(
        method="the artifacts of this page, over one text and against one reference",
        points=tuple(
            Point(
                name=subject.schemes if schemes.count(subject.schemes) == 1 else f"{subject.schemes} ({subject.name})",
                bits_per_value=subject.bits,
                bytes_per_token=sum(layer.bytes_per_token for layer in subject.manifest.layers),
                kl=subject.results.fidelity.kl,
                agreement=subject.results.fidelity.agreement,
                perplexity_change=subject.results.fidelity.perplexity_change,
            )
            for subject in measured
        ),
    )


def render(report: Report, *, interactive: bool = True) -> str:
    """The page."""
    subjects = report.subjects
    sources = [report.needles.panels if report.needles else (), [p for s in subjects for p in s.panels]]
    panels = [panel for source in sources for panel in source]
    files: list[tuple[str, Measured]] = []
    if report.points and report.points.command:
        files.append((report.points.benchmark or "rate and fidelity", report.points))
    if report.needles:
        files.append((report.needles.benchmark or "needles", report.needles))
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=", ".join(subject.name for subject in subjects),
            report=report,
            subjects=subjects,
            summary=summary(subjects),
            strips=[strip(subject) for subject in subjects],
            layers=[(subject.name, layer_rows(subject)) for subject in subjects],
            figures=_figures(report) if interactive else {},
            interactive=interactive,
            plotly=_plotly() if interactive else "",
            queries=", ".join(sorted(_queries(subjects))),
            points=_point_rows(report.points),
            panels=[pair for s in sources if s for pair in zip(draw_panels(s), s, strict=True)],
            panel_rows=[_panel_row(panel) for panel in panels],
            cost_text=cost_text,
            cell=(CELL_W, CELL_H),
            contexts=context_rows(subjects),
            fits=fit_rows(subjects),
            origins=origins(subjects, files),
            how={"layers": LAYERS_BY, "points": POINTS_BY, "needles": NEEDLES_BY},
            version=version("turboquant-compiler"),
        )
    )


def _queries(subjects: Sequence[Subject]) -> set[str]:
    """Which queries the noise of logits was measured with."""
    results = [subject.results for subject in subjects if subject.results]
    return {layer.queries for found in results for layer in found.layers or () if layer.queries}


def _figures(report: Report) -> dict[str, Any]:
    """Figures by section: a list of (heading, plotly's JSON), or None where nothing was measured."""
    from . import report_charts as charts

    measured = [s for s in report.subjects if s.results and s.results.layers]
    layers = [subject.results.layers for subject in measured]
    figures: dict[str, Any] = {"memory": [("", charts.memory(report.subjects))]}
    for name, draw, fields in (
        ("distortion", charts.distortion, ("d_k", "d_v", "theory_k", "theory_v")),
        ("noise", charts.noise, ("logit_sd", "logit_law")),
    ):
        span = charts.span(layers, fields)
        figures[name] = span and [(s.name, draw(s.results.layers, span)) for s in measured]
    points = report.points.points if report.points else ()
    figures["rate"] = [("", charts.rate(points))] if any(point.kl for point in points) else None
    return {
        name: drawn and [(heading, _script_safe(figure.to_json(engine="json"))) for heading, figure in drawn]
        for name, drawn in figures.items()
    }


def _script_safe(json: str) -> str:
    """JSON that no HTML parser leaves a script element at."""
    return json.replace("<", "\\u003c")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _point_rows(points: Points | None) -> list[list[str]]:
    best = {id(point) for point in front(points.points)} if points else set()
    return [
        [
            point.name,
            "ours" if point.kind == "ours" else "codec only in evaluation",
            f"{point.bits_per_value:.3f}",
            f"{point.bytes_per_token:,.0f}" if point.bytes_per_token is not None else "–",
            f"{point.kl:.3g}",
            f"{100 * point.agreement:.2f} %" if point.agreement is not None else "–",
            f"{100 * point.perplexity_change:+.2f} %" if point.perplexity_change is not None else "–",
            "●" if id(point) in best else "",
        ]
        for point in sorted(points.points if points else (), key=lambda point: (point.bits_per_value, point.kl))
    ]


def _panel_row(panel: Panel) -> list[str]:
    cost = panel.longest
    return [
        panel.cache,
        f"{100 * panel.score:.1f} %",
        f"{cost.length:,}" if cost else "–",
        size(cost.cache_bytes) if cost else "–",
        f"{cost.tokens_per_second:,.3g}" if cost and cost.tokens_per_second else "–",
    ]
