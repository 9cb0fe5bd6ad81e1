"""All tables of a document, and what it could not measure."""

from __future__ import annotations

from .attention_tables import attention_tables
from .line_tables import line_tables
from .model_tables import model_tables
from .results import AttentionBench, Results
from .table import Table


def tables(results: Results) -> list[Table]:
    """All tables of a document that have rows."""
    made = attention_tables(results) if isinstance(results, AttentionBench) else model_tables(results)
    return [_without_empty(table) for table in (*made, *line_tables(results)) if table.rows]


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
