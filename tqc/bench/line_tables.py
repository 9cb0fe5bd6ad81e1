"""Slopes over the context and where engines break even, as tables."""

from __future__ import annotations

from .fit import BreakEven, Line
from .results import Results
from .table import Table, number


def line_tables(results: Results) -> list[Table]:
    """Slopes over the context, and where ours are quicker than a peer."""
    place = ["engine", "heads", "batch"]
    slopes = [
        [
            *(line.engine, line.heads, str(line.batch)),
            *(slope_text(line.median), slope_text(line.minimum), f"{line.median.intercept * 1e6:,.0f}"),
        ]
        for line in results.lines
    ]
    columns = [*place, "ns a token", "(minima)", "µs at 0"]
    return [
        Table("Time of a step over the context: slope (± standard error), constant", columns, slopes, words=2),
        *_crossings(results),
    ]


def _crossings(results: Results) -> list[Table]:
    """One table for each layer and batch."""
    rows: dict[tuple[str, int], list[list[str]]] = {}
    for found in results.crossings:
        row = [found.engine, found.peer, f"from {found.measured:,}" if found.measured else "not at the longest"]
        row += [crossing_text(found.median), crossing_text(found.minimum)]
        rows.setdefault((found.heads, found.batch), []).append(row)
    return [
        Table(
            f"Quicker than a peer, {heads + ', ' if heads else ''}batch {batch}",
            ["engine", "peer", "measured", "by the lines", "by those of minima"],
            part,
            words=5,
        )
        for (heads, batch), part in rows.items()
    ]


def slope_text(line: Line) -> str:
    """ns per token, with its standard error if it is known."""
    error = f" ± {number(line.error * 1e9)}" if line.error is not None else ""
    return f"{number(line.slope * 1e9)}{error}"


def crossing_text(found: BreakEven) -> str:
    """`from 1,234` tokens, `always`."""
    if found.context is None:
        return found.where
    return f"{found.where} {found.context:,.0f}" + " (beyond)" * found.beyond
