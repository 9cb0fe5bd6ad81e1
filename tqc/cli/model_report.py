"""What was recognised in an ONNX model, on the terminal."""

from __future__ import annotations

from rich.table import Table

from .output import console, plain


def print_report(report) -> None:
    """The table of a `tqc.frontend.Report`; where the model is refused, what is in the way of each layer below it."""
    out = console()
    out.print(report.head(), markup=False)
    if report.layers:
        out.print(_layers(report.layers))
    if report.missing:
        out.print(f"Not understood: {', '.join(f'layer {number}' for number in report.missing)}", markup=False)
    for reason in report.reasons:
        out.print(f"  {reason}", markup=False, soft_wrap=True)


def _layers(layers) -> Table:
    names = ("layer", "Q:KV heads", "dim", "scale", "softcap", "mask", "rope", "cache in", "cache out", "found at")
    table = Table(*names, title="Layers", title_justify="left")
    for layer in layers:
        cells = (
            layer.layer,
            f"{layer.query_heads}:{layer.kv_heads}{' + sinks' if layer.sinks else ''}",
            layer.head_dim,
            f"{layer.scale:.6g}",
            f"{layer.softcap:g}" if layer.softcap else "–",
            layer.mask,
            layer.rope or "–",
            "\n".join(layer.past),
            "\n".join(layer.present),
            layer.node,
        )
        table.add_row(*plain(*cells))
    return table
