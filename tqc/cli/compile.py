"""`tqc compile`: an ONNX decoder in, an artifact out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .model_report import print_report
from .output import print_json, progress, size

if TYPE_CHECKING:
    from ..artifact import Manifest
    from ..compiler.choose import Chosen
    from ..frontend import Report


def compile(
    model: Annotated[Path, typer.Argument(help="The ONNX file of a decoder exported with its KV cache.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The artifact's directory, usually NAME.tqc.")],
    target: Annotated[str, typer.Option(help="cpu, cuda or a TVM target.")] = "cpu",
    arch: Annotated[str | None, typer.Option(help="Architectures, comma-separated: x86-64-v3, sm_80,sm_90, …")] = None,
    kv: Annotated[
        str, typer.Option(help="Cache scheme: tq4, k4v3, k:tq4,v:tq3, tqp4, tq3.5, polar, qjl, fp16, …")
    ] = "tq4",
    plan: Annotated[
        Path | None, typer.Option(help="A file with the schemes of every layer, as tqc plan writes.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Mean bits of a coded number, scales included: schemes are chosen per layer.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of the rotation: 2 for inputs with few nonzero numbers.")] = 1,
    sinks: Annotated[int, typer.Option(help="First tokens kept exact.")] = 4,
    recent: Annotated[int, typer.Option(help="Newest tokens kept exact, at least.")] = 128,
    page: Annotated[int, typer.Option(help="Tokens in a page.")] = 64,
    max_context: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens; the model's own by default.")
    ] = None,
    calibrate: Annotated[Path | None, typer.Option(help="Text over which key means are measured.")] = None,
    centre: Annotated[bool, typer.Option("--centre/--no-centre", help="Subtract mean keys before coding.")] = True,
    protect: Annotated[
        bool, typer.Option("--protect/--no-protect", help="Give keys with a large bias 8 bits, whatever --kv says.")
    ] = True,
    fold: Annotated[bool, typer.Option("--fold/--no-fold", help="Fold the value rotation into the weights.")] = True,
    tune_logs: Annotated[
        Path | None, typer.Option(help="A folder with logs of tqc tune, beside those that come with the compiler.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Print what was recognised of each layer, also of a model that is refused."),
    ] = False,
    dump_dir: Annotated[Path | None, typer.Option(help="Write the IR after every pass into this folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing artifact.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON summary.")] = False,
) -> None:
    """Compile an ONNX model to an artifact with a compressed KV cache."""
    from ..artifact import read_manifest
    from ..artifact.embed import embed_report
    from ..artifact.summary import totals
    from ..codec.form import EXACT_DTYPES

    start = time.perf_counter()
    reports: list[Report] = []
    choices: list[Chosen] = []
    try:
        with progress() as said:
            said("loading the compiler", 0.0)
            from ..compiler import CompileOptions, compile_model

            path = compile_model(
                CompileOptions(
                    model=model,
                    output=output,
                    target=target,
                    arch=arch,
                    kv=kv,
                    plan=plan,
                    budget=budget,
                    rounds=rounds,
                    sinks=sinks,
                    recent=recent,
                    page=page,
                    max_context=max_context,
                    calibrate=calibrate,
                    centre=centre,
                    protect=protect,
                    fold=fold,
                    tune_logs=tune_logs,
                    dump_dir=dump_dir,
                    force=force,
                    progress=said,
                    explain=reports.append if explain else None,
                    chosen=choices.append,
                )
            )
    finally:
        # Not while the progress bar is drawn; and if compiling failed, this says how far it understood the model.
        for report in reports:
            if not json:
                print_report(report)
            elif report.error is not None:
                print_json({"model": report.as_json()})
    manifest = read_manifest(path)
    if not manifest.forward:
        from ..eval.report import first_page

        manifest = embed_report(path, first_page(manifest))
    seconds = time.perf_counter() - start
    if centre and manifest.centring is None and any(layer.k not in EXACT_DTYPES for layer in manifest.layers):
        typer.echo("Keys are not centred: there is no tokenizer.json beside the model to read a text with.", err=True)
    for layer, ratio in sorted(choices[0].protected.items()) if choices else ():
        typer.echo(
            f"Layer {layer}: 8-bit keys, since their bias is {ratio:.0f} times as long as the rest of them.", err=True
        )
    sums = totals(manifest, 8 << 30)
    libraries = {library.file: manifest.files[library.file].size for library in manifest.libraries}
    if json:
        said = {"model": reports[0].as_json()} if reports else {}
        print_json(
            {
                "artifact": str(path),
                "seconds": round(seconds, 3),
                "libraries": libraries,
                "totals": sums,
                "configured": configured(manifest),
                **said,
            }
        )
        return
    what = "attentions without a cache" if manifest.forward else "layers"
    found = manifest.forward.attention if manifest.forward else manifest.layers
    typer.echo(f"{path}: {len(found)} {what} in {seconds:.1f} s")
    for name, count in libraries.items():
        typer.echo(f"  {name}  {size(count)}")
    typer.echo(f"  params.safetensors  {size(sums['params_bytes'])}")
    if manifest.forward:
        return
    typer.echo(f"  KV cache: {sums['bytes_per_token']:,} B a coded token, {sums['compression']:.2f}× smaller than fp16")
    for source, kernels in configured(manifest).items():
        typer.echo(f"  configured by {source}: {', '.join(kernels)}")


def configured(manifest: Manifest) -> dict[str, list[str]]:
    """Where the configurations of kernels come from, and which kernels have them."""
    found: dict[str, list[str]] = {}
    for kernel in manifest.kernels:
        if "configured" in kernel.config:
            found.setdefault(str(kernel.config["configured"]), []).append(kernel.name)
    return found
