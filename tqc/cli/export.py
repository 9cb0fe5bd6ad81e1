"""`tqc export`: a model to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .output import print_json, status


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="smollm2, smollm2-biased, needle, a folder with config.json and safetensors, or a .gguf file."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for model.onnx and what belongs to it.")],
    dtype: Annotated[str, typer.Option(help="fp32 or fp16.")] = "fp32",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Export a language model to ONNX with its KV cache as inputs and outputs."""
    with status("loading the exporter") as say:
        from ..models.export import export_model

        path = export_model(source, output, dtype=dtype, force=force, progress=say)
    if json:
        print_json({"model": str(path)})
    else:
        typer.echo(str(path))
