"""Times of whole models as tables."""

from __future__ import annotations

from .results import Cell, ModelBench, Timing
from .table import Table, number


def model_tables(results: ModelBench) -> list[Table]:
    """Steps and prompts."""
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
