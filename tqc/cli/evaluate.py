"""`tqc eval`: what an artifact's compressed cache costs, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TqcError
from .eval_tables import print_results
from .output import console, print_json, progress


def evaluate(
    artifact: Annotated[Path, typer.Argument(help="The artifact's directory.")],
    reference: Annotated[
        Path | None, typer.Option(help="An artifact to compare with, usually one with --kv fp32.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="The ONNX model to compare with, run by onnxruntime.")] = None,
    text: Annotated[Path | None, typer.Option(help="A text file; Python's own documentation by default.")] = None,
    tokens: Annotated[int, typer.Option(help="Predictions to compare; tokens whose codes are compared.")] = 2048,
    chunk: Annotated[int, typer.Option(help="Tokens a step: 1 decodes, more is quicker and slightly kinder.")] = 1,
    only: Annotated[
        str | None, typer.Option(help="Sections: fidelity,distortion,logits,retrieval,bytes. All by default.")
    ] = None,
    lengths: Annotated[
        str | None,
        typer.Option(help="Tokens of retrieval prompts, 500,1000,…; ¼, ½ and all of the context, or of 4096."),
    ] = None,
    depths: Annotated[str, typer.Option(help="Where the needles lie, from 0 (start) to 1 (end).")] = "0,0.5,1",
    trials: Annotated[int, typer.Option(help="Prompts for each retrieval task, length and depth.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the needles and the random queries.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the results in this file; the same command goes on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Begin the file of results anew.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure an artifact: bytes, distortion of the codes against theory, fidelity to a reference, retrieval."""
    if reference and onnx:
        raise TqcError("there are two references", expected="--reference or --onnx", found="both")
    with progress() as said:
        said("loading", 0.0)
        from ..eval.evaluate import evaluate
        from ..eval.results import SECTIONS
        from ..eval.settings import Settings

        settings = Settings(
            sections=_names(only) if only is not None else SECTIONS,
            tokens=tokens,
            chunk=chunk,
            lengths=_numbers("--lengths", lengths, int) if lengths is not None else (),
            depths=_numbers("--depths", depths, float),
            trials=trials,
            seed=seed,
            device=device,
        )
        results = evaluate(
            artifact, settings, reference=reference or onnx, text=text, output=output, force=force, progress=said
        )
        said("done", 1.0)
    if json:
        print_json(results.model_dump(mode="json"))
    else:
        print_results(console(), results)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str, kind: type) -> list:
    """The numbers of a comma-separated list. Raises TqcError for anything else."""
    try:
        numbers = [kind(part) for part in _names(text)]
    except ValueError:
        numbers = []
    if not numbers:
        raise TqcError("this is no list of numbers", where=option, expected="numbers with commas between", found=text)
    return numbers
