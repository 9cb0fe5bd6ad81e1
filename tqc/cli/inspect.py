"""`tqc inspect`: what is in an artifact, from its manifest alone, or what is recognised in an ONNX model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .model_report import print_report
from .output import console, parse_size, plain, print_json, size, status


def inspect(
    path: Annotated[Path, typer.Argument(metavar="ARTIFACT|MODEL.onnx", help="An artifact's directory, or a model.")],
    memory: Annotated[str, typer.Option(help="Memory for the KV cache of one sequence of an artifact.")] = "8GiB",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the layers, the compression, the libraries and the kernels of an artifact; or what is recognised of each
    layer of an ONNX model, and, if it is refused, which nodes are in the way (status 1)."""
    if path.is_file():
        _inspect_model(path, json)
    else:
        _inspect_artifact(path, parse_size(memory), json)


def _inspect_model(path: Path, json: bool) -> None:
    with status("loading the compiler"):
        from ..frontend import report
    with status(f"reading {path.name}"):
        found = report(path)
    if json:
        print_json(found.as_json())
    else:
        print_report(found)
    if found.error is not None:
        raise found.error


def _inspect_artifact(artifact: Path, available: int, json: bool) -> None:
    from ..artifact import read_manifest
    from ..artifact.summary import totals

    manifest = read_manifest(artifact)
    sums = totals(manifest, available)
    if json:
        print_json({**manifest.model_dump(mode="json", exclude={"manifest_sha256"}), "totals": sums})
        return
    out = console()
    source = manifest.source
    out.print(f"{artifact.name}  {source.file} (opset {source.opset}, {source.dtype})", markup=False)
    out.print(" ".join(manifest.command_line), markup=False)
    if manifest.forward:
        _print_forward(out, manifest)
    else:
        _print_cache(out, manifest, sums, available)
    out.print(f"Weights: {size(sums['params_bytes'])}")
    out.print(_libraries(manifest))
    out.print(_kernels(manifest))


def _print_forward(out, manifest) -> None:
    forward = manifest.forward
    table = Table("", "name", "dtype", "shape", title="forward", title_justify="left")
    for side, specs in (("in", forward.inputs), ("out", forward.outputs)):
        for spec in specs:
            shape = [f"{dim} ≤ {forward.limits[dim]}" if dim in forward.limits else str(dim) for dim in spec.shape]
            table.add_row(*plain(side, spec.name, spec.dtype, ", ".join(shape)))
    out.print(table)
    for place, group in itertools.groupby(forward.attention):
        count = len(list(group))
        out.print(
            f"{count} attention{'s' * (count > 1)} without a cache: head_dim {place.head_dim}, "
            f"K through {place.k}, V through {place.v}"
        )


def _print_cache(out, manifest, sums, available: int) -> None:
    cache = manifest.cache
    out.print(_layers(manifest))
    out.print(
        f"Cache: {_exact(cache)} ({cache.exact_dtype}, {size(sums['exact_bytes'])} a sequence), "
        f"pages of {cache.page} tokens ({size(sums['page_bytes'])})"
    )
    for line in _windows(manifest):
        out.print(line)
    out.print(
        f"Coded token: {sums['bytes_per_token']:,} B, in fp16 {sums['fp16_bytes_per_token']:,} B: "
        f"[bold]{sums['compression']:.2f}×[/] smaller"
    )
    out.print(
        f"{size(available)} of cache hold {sums['context_in_memory']:,} tokens (fp16: "
        f"{sums['fp16_context_in_memory']:,}); compiled for at most {manifest.max_context:,}"
    )


def _layers(manifest) -> Table:
    names = ("layers", "Q:KV heads", "dim", "K", "B/token", "V", "B/token", "window", "centred", "V rotation")
    table = Table(*names, title="Layers", title_justify="left")
    for layer, group in itertools.groupby(enumerate(manifest.layers), key=lambda pair: pair[1]):
        numbers = [number for number, _ in group]
        cells = (
            str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}",
            f"{layer.query_heads}:{layer.kv_heads}",
            *(layer.head_dim, layer.k, layer.bytes_per_token_k, layer.v, layer.bytes_per_token_v),
            *(layer.window or "–", "yes" if layer.key_mean else "no", layer.value_rotation),
        )
        table.add_row(*plain(*cells))
    return table


def _windows(manifest) -> list[str]:
    """What layers with a sliding window keep, a line for each size of ring."""
    kept = [next((spec.ring for spec in state if spec.ring), 0) for state in manifest.cache.state]
    return [
        f"Sliding windows: {kept.count(pages)} of {len(kept)} layers keep the newest {pages} "
        f"{'page' if pages == 1 else 'pages'} of a sequence"
        for pages in sorted(set(kept) - {0})
    ]


def _exact(cache) -> str:
    recent = f" and {cache.recent} to {cache.recent + cache.page - 1} recent tokens" if cache.recent else ""
    return f"{cache.sinks} sinks{recent} exact"


def _libraries(manifest) -> Table:
    table = Table("library", "device", "built for", "needs CPU", "size", title="Libraries", title_justify="left")
    for library in manifest.libraries:
        entry = manifest.files[library.file]
        table.add_row(*plain(library.file, library.kind, library.arch, library.cpu_level or "–", size(entry.size)))
    return table


def _kernels(manifest) -> Table:
    table = Table("kernel", "schedule", "configuration", title="Kernels", title_justify="left")
    for kernel in manifest.kernels:
        settings = " ".join(f"{name}={value}" for name, value in kernel.config.items())
        table.add_row(*plain(kernel.name, kernel.schedule, settings))
    return table
