"""Results as tables of words, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .fit import BreakEven, Line
from .results import AttentionBench, AttentionCell, Cell, ModelBench, Results, Timing


@dataclass(frozen=True)
class Table:
    """A heading, the names of the columns, and rows of as many words. The first `words` columns are no numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def tables(results: Results) -> list[Table]:
    """All tables of a document that have rows."""
    made = _attention(results) if isinstance(results, AttentionBench) else _model(results)
    return [_without_empty(table) for table in (*made, *_lines(results)) if table.rows]


def _without_empty(table: Table) -> Table:
    """Without columns that say nothing: heads of whole models."""
    kept = [column for column in range(len(table.header)) if any(row[column] for row in table.rows)]
    rows = [[row[column] for column in kept] for row in table.rows]
    words = sum(column < table.words for column in kept)
    return Table(table.title, [table.header[column] for column in kept], rows, words)


def faults(results: Results) -> list[str]:
    """What could not be timed, one line each, of ours first."""
    found: dict[str, list[str]] = {"ours": [], "other": []}
    for cell in results.cells:
        where = f"{cell.heads + ', ' if cell.heads else ''}batch {cell.batch}, context {cell.context}"
        if cell.skipped:
            found["ours"].append(f"{where}: not measured, {cell.skipped}")
        for timing in cell.timings:
            if timing.fault:
                found["ours" if timing.kind == "ours" else "other"].append(f"{where}: {timing.name}: {timing.fault}")
    return found["ours"] + found["other"]


def _attention(results: AttentionBench) -> list[Table]:
    """One table for each layer and batch, and one of what belongs to all of them."""
    steps: dict[tuple[str, int], list[list[str]]] = {}
    others = []
    for cell in results.cells:
        for timing in cell.timings:
            if not timing.rounds:
                continue
            row = [timing.name, f"{cell.context:,}", number(timing.median * 1e6), number(timing.minimum * 1e6)]
            row += [f"{timing.bandwidth / 1e9:,.1f}" if timing.bandwidth else ""]
            if timing.kind in ("ours", "peer"):
                row += [share_text(timing, cell), _times(timing, cell, "median"), _times(timing, cell, "minimum")]
                row += [f"{timing.error:.1e}" if timing.error is not None else "–"]
                steps.setdefault((cell.heads, cell.batch), []).append(row)
            else:
                others.append([row[0], cell.heads, str(cell.batch), *row[1:]])
    columns = ["engine", "context", "µs", "min µs", "GB/s", "of copy", "× peer", "(min)", "error"]
    return [
        *(Table(f"Decode attention, {heads}, batch {batch}", columns, rows) for (heads, batch), rows in steps.items()),
        Table("Appending a token, copying memory", ["engine", "heads", "batch", *columns[1:5]], others, words=2),
    ]


def _times(timing: Timing, cell: AttentionCell, what: Literal["median", "minimum"]) -> str:
    found = times_peer(timing, cell, what)
    return f"{found:.2f}" if found is not None else "–"


def times_peer(timing: Timing, cell: AttentionCell, what: Literal["median", "minimum"]) -> float | None:
    """How many times as fast a candidate is as the quickest peer; None without one."""
    peer = cell.quickest_peer(what)
    return getattr(peer, what) / getattr(timing, what) if peer and timing.rounds else None


def share(timing: Timing, cell: AttentionCell) -> float | None:
    """Of the copy bandwidth, what a candidate reads its cache with."""
    return timing.bandwidth / cell.copied if timing.bandwidth and cell.copied else None


def share_text(timing: Timing, cell: AttentionCell) -> str:
    found = share(timing, cell)
    return f"{100 * found:.0f} %" if found is not None else "–"


def _model(results: ModelBench) -> list[Table]:
    own = results.engines[0].name
    place = ["engine", "batch", "context"]
    decode = [*place, "ms", "min ms", "tok/s", "ours ×", "cache MB"]
    prefill = ["engine", "batch", "prompt", "tokens/s", "ours ×"]
    return [
        Table("Decode, inter-token latency", decode, [row for cell in results.decode for row in _decode(cell, own)]),
        Table("Prefill", prefill, [row for cell in results.prefill for row in _prefill(cell, own)]),
    ]


def _decode(cell: Cell, own: str) -> list[list[str]]:
    return [
        [
            *(timing.name, str(cell.batch), f"{cell.context:,}"),
            *(number(timing.median * 1e3), number(timing.minimum * 1e3)),
            f"{cell.batch / timing.median:,.1f}",
            _ratio(timing, cell, own),
            f"{timing.bytes / 1e6:,.1f}" if timing.bytes is not None else "–",
        ]
        for timing in cell.timings
        if timing.rounds
    ]


def _prefill(cell: Cell, own: str) -> list[list[str]]:
    return [
        [
            *(timing.name, str(cell.batch), f"{cell.context:,}"),
            f"{cell.batch * cell.context / timing.median:,.0f}",
            _ratio(timing, cell, own),
        ]
        for timing in cell.timings
        if timing.rounds
    ]


def _ratio(timing: Timing, cell: Cell, own: str) -> str:
    """How many times as fast the artifact is as this peer, by medians."""
    ours = cell.of(own)
    return "" if timing.name == own or ours is None else f"{timing.median / ours.median:.2f}"


def _lines(results: Results) -> list[Table]:
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


def number(value: float) -> str:
    """Three or four digits: 1.23, 12.3, 123, 1,234."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def slope_text(line: Line) -> str:
    """ns per token, with its standard error if it is known."""
    error = f" ± {number(line.error * 1e9)}" if line.error is not None else ""
    return f"{number(line.slope * 1e9)}{error}"


def crossing_text(found: BreakEven) -> str:
    """`from 1,234` tokens, `always`."""
    if found.context is None:
        return found.where
    return f"{found.where} {found.context:,.0f}" + " (beyond)" * found.beyond
