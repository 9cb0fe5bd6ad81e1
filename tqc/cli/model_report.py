"""What was recognised in an ONNX model, on the terminal."""

from __future__ import annotations

import itertools

from rich.table import Table

from .output import console, plain


def print_report(report) -> None:
    """The table of a `tqc.frontend.Report`; where the model is refused, what is in the way of each layer below it."""
    out = console()
    out.print(report.head(), markup=False)
    if report.layers:
        out.print(_layers(report.layers))
        out.print(_places(report.layers))
    if report.missing:
        out.print(f"Not understood: {', '.join(f'layer {number}' for number in report.missing)}", markup=False)
    for reason in report.reasons:
        out.print(f"  {reason}", markup=False, soft_wrap=True)


def _layers(layers) -> Table:
    names = ("layers", "Q:KV heads", "dim", "scale", "softcap", "mask", "rope")
    table = Table(*names, title="Layers", title_justify="left")
    for cells, group in itertools.groupby(layers, key=_recognised):
        numbers = [layer.layer for layer in group]
        table.add_row(*plain(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}", *cells))
    return table


def _recognised(layer) -> tuple[str, ...]:
    return (
        f"{layer.query_heads}:{layer.kv_heads}{' + sinks' if layer.sinks else ''}",
        str(layer.head_dim),
        f"{layer.scale:.6g}",
        f"{layer.softcap:g}" if layer.softcap else "–",
        layer.mask,
        str(layer.rope or "–"),
    )


def _places(layers) -> Table:
    """Names in the graph, whole: people look for them there."""
    table = Table("layer", title="In the graph", title_justify="left")
    for name in ("cache inputs", "cache outputs", "attention at"):
        table.add_column(name, overflow="fold")
    for layer in layers:
        table.add_row(*plain(layer.layer, "\n".join(layer.past), "\n".join(layer.present), layer.node))
    return table
