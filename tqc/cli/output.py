"""How every verb prints: results on stdout, progress on stderr, numbers with their units."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..errors import TqcError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def console() -> Console:
    """For results. Made anew each time so that a redirected stdout is honoured."""
    return Console(highlight=False, soft_wrap=False)


def plain(*cells: object) -> list[Text]:
    """Cells of a table whose square brackets mean nothing."""
    return [Text(str(cell)) for cell in cells]


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def status(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something without a known length runs; the value changes its text."""
    errors = Console(stderr=True, highlight=False)
    with errors.status(text) as spinner:
        yield lambda now: spinner.update(now)


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr; the value takes the current step and the fraction of the whole that is done."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, fraction: bar.update(task, description=step, completed=fraction)


def size(count: float) -> str:
    """A number of bytes for people: `34 B`, `1.50 KiB`, `8.00 GiB`."""
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.2f} {unit}"


def parse_size(text: str) -> int:
    """Bytes of `8GiB`, `512 MB` or `1000`. Raises TqcError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise TqcError("This is not a size", expected="a number with B, KB, MB, GB, KiB, MiB or GiB", found=text)
    return int(float(match[1]) * _UNITS[match[2].lower()])
