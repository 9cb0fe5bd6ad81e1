"""The tables and strips of a report: what a manifest and an evaluation say, in words and with units."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from tqc.artifact.summary import totals

from .colours import colour, ink
from .measured import Measured
from .report_memory import CONTEXTS, cache_bytes, fits, fp16_bytes, weights
from .subjects import Subject, bits_per_value, grouped

NONE = "–"


def size(count: float) -> str:
    """Bytes in powers of ten, as GPUs are sold: 850 B, 12.2 kB, 1.57 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return (
                f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}" if count < 999.5 else f"{count:.0f} {unit}"
            )
        count /= 1000
    raise AssertionError


def summary(subjects: Sequence[Subject]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Groups of rows, a cell for each artifact: [(group, [(what, [cell, …]), …]), …]."""
    groups = [("Model", _model), ("Cache", _cache)]
    if any(subject.results for subject in subjects):
        groups.append(("Measured", _measured))
    found = []
    for name, row_of in groups:
        columns = [row_of(subject) for subject in subjects]
        rows = [(what, [column[what] for column in columns]) for what in columns[0]]
        found.append((name, [row for row in rows if any(cell != NONE for cell in row[1])]))
    return found


def _model(subject: Subject) -> dict[str, str]:
    manifest = subject.manifest
    heads = {f"{layer.query_heads}:{layer.kv_heads} × {layer.head_dim}" for layer in manifest.layers}
    return {
        "source": f"{manifest.source.file}, {manifest.source.dtype}",
        "attention layers": f"{len(manifest.layers)}",
        "query:KV heads × head_dim": ", ".join(sorted(heads)),
        "weights": size(weights(manifest)),
        "libraries": ", ".join(f"{library.kind} {library.arch}" for library in manifest.libraries),
        "compiled for at most": f"{manifest.max_context:,} tokens",
    }


def _cache(subject: Subject) -> dict[str, str]:
    manifest, sums = subject.manifest, totals(subject.manifest, 0)
    cache = manifest.cache
    recent = f", {cache.recent}–{cache.recent + cache.page - 1} recent" if cache.recent else ""
    return {
        "scheme": subject.schemes,
        "bits per number": f"{subject.bits:.3f}",
        "coded token": f"{sums['bytes_per_token']:,} B",
        "coded token in fp16": f"{sums['fp16_bytes_per_token']:,} B",
        "compression": f"{sums['compression']:.2f}×",
        "exact tokens": f"{cache.sinks} sinks{recent} ({cache.exact_dtype})",
        "exact buffers": f"{size(sums['exact_bytes'])} a sequence",
        "pages": f"{cache.page} tokens, {size(sums['page_bytes'])}",
        "keys centred": f"{sum(layer.key_mean for layer in manifest.layers)} of {len(manifest.layers)} layers",
    }


def _measured(subject: Subject) -> dict[str, str]:
    results = subject.results
    fidelity = results.fidelity if results else None
    cells = (results.retrieval if results else None) or ()

    def shown(value: float | None, text: str) -> str:
        return NONE if value is None else text.format(value).replace("%", " %")

    return {
        "same next token": NONE if fidelity is None else shown(fidelity.agreement, "{:.2%}"),
        "KL (nat per token)": NONE if fidelity is None else shown(fidelity.kl, "{:.3g}"),
        "largest KL": NONE if fidelity is None else shown(fidelity.kl_max, "{:.3g}"),
        "perplexity": NONE if fidelity is None else f"{fidelity.perplexity:.4f}",
        "reference's perplexity": NONE if fidelity is None else shown(fidelity.reference_perplexity, "{:.4f}"),
        "change of perplexity": NONE if fidelity is None else shown(fidelity.perplexity_change, "{:+.2%}"),
        "predictions": NONE if fidelity is None else _predictions(fidelity),
        "reference": results.reference.name if results and results.reference else NONE,
        "retrieved": f"{sum(c.correct for c in cells)} of {sum(c.total for c in cells)}" if cells else NONE,
    }


def _predictions(fidelity: Any) -> str:
    windows = f"{fidelity.tokens:,} in windows of {fidelity.window:,}"
    return windows if fidelity.tokens >= fidelity.wanted else f"{windows}, stopped before {fidelity.wanted:,}"


def strip(subject: Subject) -> dict[str, Any]:
    """Rows K and V with a cell a layer, and a legend of the schemes with their bits and number of layers."""
    rows, legend = [], {}
    for side in "kv":
        cells = []
        for number, layer in enumerate(subject.manifest.layers):
            name, bits = getattr(layer, side), bits_per_value(layer, side)
            shade = colour(name)
            cells.append({"layer": number, "scheme": name, "bits": f"{bits:.4g}", "colour": shade, "ink": ink(shade)})
            entry = legend.setdefault(name, {"scheme": name, "bits": f"{bits:.4g}", "colour": shade, "k": 0, "v": 0})
            entry[side] += 1
        rows.append((side.upper(), cells))
    return {"name": subject.name, "rows": rows, "legend": sorted(legend.values(), key=lambda entry: entry["scheme"])}


def layer_rows(subject: Subject) -> list[list[str]]:
    """Every run of equal layers: what `tqc inspect` shows, with bits."""
    return [
        [
            numbers,
            f"{layer.query_heads}:{layer.kv_heads}",
            str(layer.head_dim),
            layer.k,
            f"{bits_per_value(layer, 'k'):.4g}",
            f"{layer.bytes_per_token_k:,}",
            layer.v,
            f"{bits_per_value(layer, 'v'):.4g}",
            f"{layer.bytes_per_token_v:,}",
            f"{layer.window:,}" if layer.window else NONE,
            "yes" if layer.key_mean else "no",
            layer.value_rotation,
        ]
        for numbers, layer in grouped(subject.manifest.layers)
    ]


def context_rows(subjects: Sequence[Subject]) -> list[list[str]]:
    """Cache of one sequence at some lengths: fp16, then every artifact."""
    return [
        [
            f"{tokens:,} tokens",
            size(max(fp16_bytes(subject.manifest, tokens) for subject in subjects)),
            *(
                f"{size(cached)} ({fp16_bytes(subject.manifest, tokens) / cached:.2f}×)"
                for subject in subjects
                for cached in [cache_bytes(subject.manifest, tokens)]
            ),
        ]
        for tokens in CONTEXTS
    ]


def fit_rows(subjects: Sequence[Subject]) -> list[list[str]]:
    """Tokens of one sequence that fit each GPU beside the weights: fp16 (the artifact with most room), then each."""
    found = [fits(subject.manifest) for subject in subjects]

    def tokens(count: int) -> str:
        return f"{count:,}" if count else "weights do not fit"

    return [
        [row[0].gpu_name, tokens(max(fit.fp16_tokens for fit in row)), *(tokens(fit.tokens) for fit in row)]
        for row in zip(*found, strict=True)
    ]


def origins(subjects: Sequence[Subject], files: Sequence[tuple[str, Measured]]) -> list[list[str]]:
    """Where everything comes from: what, when, on which machine, by which command."""
    rows = [
        [subject.name, NONE, ", ".join(lib.arch for lib in subject.manifest.libraries), command_text(subject)]
        for subject in subjects
    ]
    for subject in subjects:
        if results := subject.results:
            machine = results.hardware
            where = f"{machine.cpu}, {machine.cores} cores, on {machine.device}"
            how = f"tqc eval {results.artifact.name}"
            how += f" against {results.reference.name}" if results.reference else ""
            how += f"; text: {results.text.name}, {results.text.tokens:,} tokens" if results.text else ""
            rows.append([f"evaluation of {subject.name}", moment(results.updated), where, how])
    rows += [[name, file.date or NONE, file.hardware or NONE, file.command or NONE] for name, file in files]
    return rows


def moment(text: str) -> str:
    """A time in UTC as `2026-01-02 03:04 UTC`; other texts as they are."""
    try:
        given = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return given.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC") if given.tzinfo else text


def command_text(subject: Subject) -> str:
    """The command that compiled the artifact."""
    return " ".join(subject.manifest.command_line)
