"""`tqc report`: artifacts side by side on one HTML page, with what was measured of them."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TqcError
from ..files import replace_file
from .output import size, status


def report(
    artifacts: Annotated[list[Path], typer.Argument(metavar="ARTIFACT…", help="Directories of artifacts.")],
    eval: Annotated[
        list[Path] | None, typer.Option("--eval", help="What `tqc eval -o` wrote, of any of the artifacts; repeatable.")
    ] = None,
    points: Annotated[Path | None, typer.Option(help="A file of points: rate and fidelity of many caches.")] = None,
    needles: Annotated[Path | None, typer.Option(help="A file of needles: retrieval by length and depth.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; by default report.html here.")
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Put the page into the artifact as report.html (one artifact only).")
    ] = False,
) -> None:
    """Write one self-contained HTML page: bits per layer, memory, distortion, fidelity and retrieval."""
    if embed and len(artifacts) > 1:
        raise TqcError("A report of several artifacts belongs into none of them", hint="name one artifact, or use -o")
    with status("reading what was measured"):
        from ..eval.report import read_report, render

        made = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        found = read_report(artifacts, eval or (), points, needles, made=made, command=_command(sys.argv[1:]))
    with status("drawing"):
        page = render(found).encode()
    if embed:
        from ..artifact.embed import REPORT, embed_report

        embed_report(artifacts[0], page)
        typer.echo(f"{artifacts[0] / REPORT}: {size(len(page))}")
    if output or not embed:
        path = output or Path("report.html")
        replace_file(path, page)
        typer.echo(f"{path}: {size(len(page))}")


def _command(words: list[str]) -> str:
    """What was typed, without folders that only this machine has."""
    return " ".join(["tqc", *(Path(word).name if Path(word).is_absolute() else word for word in words)])
