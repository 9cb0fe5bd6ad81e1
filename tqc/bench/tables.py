"""Results as tables of words, for the terminal, the page and Markdown, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

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
    return [table for table in made if table.rows]


def faults(results: Results) -> list[str]:
    """What could not be timed, one line each, of ours first."""
    found: dict[str, list[str]] = {"ours": [], "other": []}
    for cell in results.cells:
        where = f"batch {cell.batch}, context {cell.context}"
        if isinstance(cell, AttentionCell):
            where = f"{cell.heads}, {where}"
        if cell.skipped:
            found["ours"].append(f"{where}: not measured, {cell.skipped}")
        for timing in cell.timings:
            if timing.fault:
                found["ours" if timing.kind == "ours" else "other"].append(f"{where}: {timing.name}: {timing.fault}")
    return found["ours"] + found["other"]


def _attention(results: AttentionBench) -> list[Table]:
    rows, slow = [], []
    for cell in results.cells:
        for timing in cell.timings:
            place = [cell.heads, str(cell.batch), f"{cell.context:,}", timing.name]
            if not timing.rounds:
                continue
            times = [f"{timing.median * 1e6:,.1f}", f"{timing.minimum * 1e6:,.1f}"]
            if timing.kind in ("ours", "peer"):
                best = cell.best
                ratio = f"{best.median / timing.median:.2f}" if best else "–"
                error = f"{timing.error:.1e}" if timing.error is not None else "–"
                speed = [f"{timing.bandwidth / 1e9:,.1f}", share_text(timing, cell)]
                rows.append([*place, *times, *speed, ratio, best.name if best else "–", error])
            else:
                slow.append([*place, *times, f"{timing.bandwidth / 1e9:,.1f}" if timing.bandwidth else ""])
    place = ["heads", "batch", "context", "engine", "µs (median)", "µs (min)"]
    full = [*place, "GB/s", "of copy", "× best full precision", "which is", "error"]
    return [
        Table("Decode attention of one layer", full, rows),
        Table("Appending a token, copying memory", [*place, "GB/s"], slow),
    ]


def share(timing: Timing, cell: AttentionCell) -> float | None:
    """Of the copy bandwidth, what a candidate reads its cache with."""
    return timing.bandwidth / cell.copied if timing.bandwidth and cell.copied else None


def share_text(timing: Timing, cell: AttentionCell) -> str:
    found = share(timing, cell)
    return f"{100 * found:.0f} %" if found is not None else "–"


def _model(results: ModelBench) -> list[Table]:
    own = results.engines[0].name
    place = ["engine", "batch", "context"]
    decode = [*place, "ms a token (median)", "ms (min)", "tokens/s", f"{own} is × as fast", "cache bytes"]
    prefill = ["engine", "batch", "prompt", "tokens/s", f"{own} is × as fast"]
    lines = ["engine", "batch", "ns per context token", "ms at context 0", f"{own} is faster"]
    return [
        Table("Decode, inter-token latency", decode, [row for cell in results.decode for row in _decode(cell, own)]),
        Table("Prefill", prefill, [row for cell in results.prefill for row in _prefill(cell, own)]),
        Table("Latency over the context: slope · tokens + intercept", lines, _lines(results)),
    ]


def _decode(cell: Cell, own: str) -> list[list[str]]:
    return [
        [
            *(timing.name, str(cell.batch), f"{cell.context:,}"),
            *(f"{timing.median * 1e3:.3f}", f"{timing.minimum * 1e3:.3f}"),
            f"{cell.batch / timing.median:,.1f}",
            _ratio(timing, cell, own),
            f"{timing.bytes:,}" if timing.bytes is not None else "–",
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


def _lines(results: ModelBench) -> list[list[str]]:
    where = {(crossing.peer, crossing.batch): crossing.median for crossing in results.crossings}
    rows = []
    for line in results.lines:
        found = where.get((line.engine, line.batch))
        rows.append([line.engine, str(line.batch), slope_text(line.median), f"{line.median.intercept * 1e3:.3f}"])
        rows[-1].append(crossing_text(found) if found else "")
    return rows


def slope_text(line: Line) -> str:
    """ns per token, with its standard error if it is known."""
    error = f" ± {line.error * 1e9:,.1f}" if line.error is not None else ""
    return f"{line.slope * 1e9:,.1f}{error}"


def crossing_text(found: BreakEven) -> str:
    """`from 1,234 tokens`, `always`."""
    if found.context is None:
        return found.where
    return f"{found.where} {found.context:,.0f} tokens" + " (not measured there)" * found.beyond


CSV_HEADER = (
    *("phase", "heads", "batch", "context", "engine", "kind", "exact", "tokens", "median_s", "minimum_s", "calls"),
    *("bytes", "bytes_per_s", "share_of_copy", "times_best_exact", "error", "load_before", "load_after", "fault"),
)


def csv_text(results: Results) -> str:
    """One line for each engine in each cell; empty where something is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for cell in results.cells:
        attention = isinstance(cell, AttentionCell)
        phase = type(cell).__name__.removesuffix("Cell").lower()
        head = [phase, cell.heads if attention else "", cell.batch, cell.context]
        if cell.skipped:
            writer.writerow([*head, *[""] * 14, cell.skipped])
        for timing in cell.timings:
            best = cell.best if attention else None
            writer.writerow(
                [
                    *head,
                    *(timing.name, timing.kind, timing.exact, timing.tokens, timing.median, timing.minimum),
                    *(sum(map(len, timing.rounds)), timing.bytes, timing.bandwidth if attention else None),
                    share(timing, cell) if attention else None,
                    best.median / timing.median if best and timing.median and timing.kind != "copy" else None,
                    *(timing.error, *cell.load, timing.fault),
                ]
            )
    return out.getvalue()
