"""Times of kernels as tables."""

from __future__ import annotations

from typing import Literal

from .results import AttentionBench, AttentionCell, Timing
from .table import Table, number


def attention_tables(results: AttentionBench) -> list[Table]:
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
