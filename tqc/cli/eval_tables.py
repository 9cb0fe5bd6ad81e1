"""The results of an evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from .output import plain, size

if TYPE_CHECKING:
    from ..eval.results import Cell, Results

Section = tuple[str, Table]
"""A line of words, and what stands below it."""


def print_results(out: Console, results: Results) -> None:
    """All sections that are there."""
    for line in _head(results):
        out.print(line, markup=False)
    for section in (_sizes(results), _layers(results), _fidelity(results), _retrieval(results)):
        if section is not None:
            title, table = section
            out.print()
            out.print(title, markup=False)
            out.print(table)
    open_sections = [section for section in results.settings if section not in results.finished]
    if open_sections:
        out.print(f"Not finished: {', '.join(open_sections)}")


def _head(results: Results) -> Iterator[str]:
    yield f"{results.artifact.name}  {results.artifact.schemes}"
    if results.reference:
        kind = "onnxruntime" if results.reference.kind == "onnx" else results.reference.schemes
        yield f"Reference: {results.reference.name}  {kind}"
    if results.text:
        yield f"Text: {results.text.name}, {results.text.tokens:,} tokens"
    yield f"{results.hardware.cpu}, {results.hardware.cores} cores, device {results.hardware.device}"


def _sizes(results: Results) -> Section | None:
    if not results.bytes:
        return None
    found = results.bytes
    title = (
        f"Bytes: {found.per_token:,} B a coded token, in fp16 {found.fp16_per_token:,} B: {found.compression:.2f}× "
        f"smaller; sinks and recent window {size(found.exact)}"
    )
    table = _table("context", "cache", "in fp16", "smaller")
    for at in found.contexts:
        table.add_row(*plain(f"{at.tokens:,}", size(at.bytes), size(at.fp16_bytes), f"{at.compression:.2f}×"))
    return title, table


def _layers(results: Results) -> Section | None:
    layers = results.layers
    if not layers:
        return None
    codes, noise = (any(getattr(layer, name) is not None for layer in layers) for name in ("d_k", "logit_sd"))
    theory = {layer.k: layer.theory_k for layer in layers} | {layer.v: layer.theory_v for layer in layers}
    title = f"Codes of {layers[0].vectors:,} vectors a side and layer. D in theory: "
    title += ", ".join(f"{scheme} {value:.4g}" for scheme, value in sorted(theory.items()) if value is not None)
    names = ["layer", "cache", "‖k‖", "‖v‖"]
    names += ["D of K", "off", "D of V", "off"] if codes else []
    names += ["sd(Δlogit)", "off"] if noise else []
    table = _table(*names)
    for layer in layers:
        cache = layer.k if layer.k == layer.v else f"{layer.k}/{layer.v}"
        cells = [layer.layer, cache, f"{layer.key_norm:.2f}", f"{layer.value_norm:.2f}"]
        if codes:
            cells += [*_beside(layer.d_k, layer.theory_k), *_beside(layer.d_v, layer.theory_v)]
        if noise:
            cells += _beside(layer.logit_sd, layer.logit_law)
        table.add_row(*plain(*cells))
    return title, table


def _beside(found: float | None, theory: float | None) -> tuple[str, str]:
    """What was measured, and how far it is from what was expected."""
    ratio = f"{100 * (found / theory - 1):+.1f} %" if found is not None and theory else ""
    return "–" if found is None else f"{found:.3g}", ratio


def _fidelity(results: Results) -> Section | None:
    found = results.fidelity
    if not found:
        return None
    of = "" if found.tokens == found.wanted else f" of {found.wanted:,}"
    title = f"Fidelity over {found.tokens:,}{of} predictions, {found.mode}, windows of {found.window:,} tokens"
    table = _table("", "")
    rows = [("perplexity", f"{found.perplexity:.4f}")]
    if found.reference_perplexity is not None:
        rows += [
            ("perplexity of the reference", f"{found.reference_perplexity:.4f}"),
            ("change", f"{100 * found.perplexity_change:+.2f} %"),
            ("same next token", f"{100 * found.agreement:.2f} %"),
            ("KL, mean", f"{found.kl:.5f} nats"),
            ("KL, largest", f"{found.kl_max:.3f} nats"),
            ("largest Δlogit", f"{found.max_difference:.3f}"),
        ]
    for row in rows:
        table.add_row(*plain(*row))
    table.show_header = False
    return title, table


def _retrieval(results: Results) -> Section | None:
    cells = results.retrieval
    if not cells:
        return None
    compared = any(cell.reference_correct is not None for cell in cells)
    correct, total = sum(cell.correct for cell in cells), sum(cell.total for cell in cells)
    title = f"Retrieval: {correct} of {total} right"
    if compared:
        title += f", the reference {sum(cell.reference_correct or 0 for cell in cells)} (in brackets)"
    depths = sorted({cell.depth for cell in cells})
    table = _table("task", "tokens", *(f"depth {depth:g}" for depth in depths))
    places = {(cell.task, cell.length, cell.depth): cell for cell in cells}
    for task, length in dict.fromkeys((cell.task, cell.length) for cell in cells):
        row = [places.get((task, length, depth)) for depth in depths]
        table.add_row(*plain(task, f"{length:,}", *map(_share, row)))
    return title, table


def _share(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    other = "" if cell.reference_correct is None else f" ({cell.reference_correct})"
    return f"{cell.correct}/{cell.total}{other}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="underline")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table
