"""What `tqc bench` prints and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from .output import console, plain, print_json

if TYPE_CHECKING:
    from ..bench.document import Document


def finish(document: Document, said: Callable[[str, float], None]) -> None:
    """Writes what is made of all cells, if there is a folder for it."""
    said("writing", 1.0)
    if document.folder:
        from ..bench.page import render
        from ..bench.sheet import csv_text

        document.finish({"results.csv": csv_text(document.results), "index.html": render(document.results)})


def print_document(document: Document, json: bool) -> None:
    """Tables, or the document as JSON. The status is 1 where nothing of ours has a time."""
    from ..bench.tables import faults, tables

    if json:
        print_json(document.results.model_dump(mode="json"))
    else:
        out = console()
        for found in tables(document.results):
            table = Table(title=found.title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for number, name in enumerate(found.header):
                table.add_column(name, justify="left" if number < found.words else "right", no_wrap=number == 0)
            for row in found.rows:
                table.add_row(*plain(*row))
            out.print(table)
        for line in (*document.results.notes, *faults(document.results)):
            out.print(line, markup=False, soft_wrap=True)
        if document.folder:
            out.print(f"{document.folder}: results.json, results.csv, index.html", markup=False, soft_wrap=True)
    if not any(timing.rounds for cell in document.results.cells for timing in cell.timings if timing.kind == "ours"):
        raise typer.Exit(1)
