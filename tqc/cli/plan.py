"""`tqc plan`: which scheme each layer gets for a budget of bits, as a file to read, change and compile with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TqcError
from ..files import replace_file
from .output import print_json, progress


def plan(
    model: Annotated[Path, typer.Argument(help="The ONNX file of a decoder exported with its KV cache.")],
    budget: Annotated[float, typer.Option(help="Mean bits of a coded number, scales included.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The plan's file; else it is printed.")] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to measure the layers over, instead of a built-in one.")
    ] = None,
    sinks: Annotated[int, typer.Option(help="First tokens kept exact.")] = 4,
    recent: Annotated[int, typer.Option(help="Newest tokens kept exact, at least.")] = 128,
    page: Annotated[int, typer.Option(help="Tokens in a page.")] = 64,
    max_context: Annotated[
        int | None, typer.Option(help="Longest sequence in tokens; the model's own by default.")
    ] = None,
    centre: Annotated[bool, typer.Option("--centre/--no-centre", help="Subtract mean keys before coding.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Choose the bits of every layer for a budget, with reasons."""
    if output is not None and output.exists() and not force:
        raise TqcError("The plan's file exists", where=str(output), hint="name another file, or pass --force")
    with progress() as said:
        said("loading the compiler", 0.0)
        from ..compiler import CompileOptions, plan_model

        made = plan_model(
            CompileOptions(
                model=model,
                output=output or Path("plan.json"),
                budget=budget,
                calibrate=text,
                sinks=sinks,
                recent=recent,
                page=page,
                max_context=max_context,
                centre=centre,
                progress=said,
            )
        )
    if output is not None:
        replace_file(output, made.text().encode())
    if json:
        print_json(made.model_dump())
    elif output is None:
        typer.echo(made.text(), nl=False)
    else:
        pairs = len(set(made.schemes().values()))
        typer.echo(
            f"{output}: {made.bits_per_value:g} bits a number, {len(made.layers)} layers, {pairs} pairs of schemes, "
            f"from {made.made_from}"
        )
