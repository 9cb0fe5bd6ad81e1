"""`tqc targets`: what can be compiled for on this machine."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Annotated

import typer
from rich.table import Table

from .output import console, plain, print_json, status


def targets(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List targets and architectures, and whether this machine can build for and run them."""
    with status("loading the compiler"):
        from ..codegen.target import describe_targets

        rows = [asdict(row) if is_dataclass(row) else dict(row) for row in describe_targets()]
    if json:
        print_json(rows)
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*plain(*map(_cell, row.values())))
    console().print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)
