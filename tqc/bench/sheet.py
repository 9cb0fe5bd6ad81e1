"""Results as CSV: one line for each engine in each cell."""

from __future__ import annotations

import csv
import io

from .attention_tables import share, times_peer
from .results import AttentionCell, Results

CSV_HEADER = (
    *("phase", "heads", "batch", "context", "engine", "kind", "exact", "tokens", "median_s", "minimum_s", "calls"),
    *("bytes", "bytes_per_s", "share_of_copy", "times_peer_median", "times_peer_minimum"),
    *("error", "load_before", "load_after", "fault"),
)


def csv_text(results: Results) -> str:
    """The text; seconds, bytes, tokens. Empty where something is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for cell in results.cells:
        attention = isinstance(cell, AttentionCell)
        phase = type(cell).__name__.removesuffix("Cell").lower()
        head = [phase, cell.heads, cell.batch, cell.context]
        if cell.skipped:
            writer.writerow([*head, *[""] * (len(CSV_HEADER) - len(head) - 1), cell.skipped])
        for timing in cell.timings:
            compared = attention and timing.kind in ("ours", "peer")
            writer.writerow(
                [
                    *head,
                    *(timing.name, timing.kind, timing.exact, timing.tokens, timing.median, timing.minimum),
                    *(sum(map(len, timing.rounds)), timing.bytes, timing.bandwidth if attention else None),
                    share(timing, cell) if attention else None,
                    *((times_peer(timing, cell, what) if compared else None) for what in ("median", "minimum")),
                    *(timing.error, *cell.load, timing.fault),
                ]
            )
    return out.getvalue()
