"""The results as one HTML page that loads nothing: figures, tables, and what the numbers belong to."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import jinja2

from .charts import figures
from .results import Results
from .tables import faults, tables

TITLES = {"attention": "Decode attention of one layer", "model": "Whole model"}


def render(results: Results) -> str:
    """The page."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tqc.bench", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=TITLES[results.kind],
        results=results,
        # plotly's JSON has no < that an HTML parser could leave the script element at.
        figures=[(heading, figure.to_json(engine="json")) for heading, figure in figures(results)],
        tables=tables(results),
        faults=[*results.notes, *faults(results)],
        origin=origin(results),
        plotly=get_plotlyjs(),
        version=version("turboquant-compiler"),
    )


def origin(results: Results) -> list[tuple[str, str]]:
    """(what, words): machine, load, versions, settings, commands."""
    host, loads = results.machine, [load for cell in results.cells for load in cell.load if load is not None]
    known = [f"{name} {number}" for name, number in results.versions.items() if number]
    rows = [
        ("machine", f"{host.get('processor') or 'unknown'}, {host.get('cores')} cores"),
        ("device", _words(host.get("device", {}))),
        ("load average", f"{min(loads):.1f} to {max(loads):.1f} before and after cells" if loads else "not known"),
        ("versions", ", ".join(known)),
        ("settings", _words(results.settings)),
        ("time", f"{results.created} to {results.updated}"),
    ]
    return rows + [("command", command) for command in results.commands]


def _words(values: dict[str, Any]) -> str:
    parts = {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in values.items()}
    return "; ".join(f"{name} {part}" for name, part in parts.items() if part not in ("", None))
