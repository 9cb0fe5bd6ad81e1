"""The command `tqc`. Verbs load what they need when they run, so that asking for help is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import TqcError
from . import bench, compile, evaluate, export, generate, inspect, plan, report, targets, tune, verify

app = typer.Typer(
    name="tqc",
    help="Compile language models to artifacts that keep their KV cache compressed while they run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(export.export)
app.command()(compile.compile)
app.command()(generate.generate)
app.command("eval")(evaluate.evaluate)
app.command()(inspect.inspect)
app.command()(plan.plan)
app.command()(report.report)
app.add_typer(bench.app, name="bench")
app.command()(verify.verify)
app.command()(targets.targets)
app.command()(tune.tune)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"tqc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself; the help text is the application's."""


def main() -> None:
    """Entry point: what a user did wrong is a message and status 1, never a traceback."""
    try:
        app()
    except TqcError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # A folder that may not be written, a pipe that was closed: the system's own words say it best.
        print(f"[{TqcError.code}] {error}", file=sys.stderr)
        sys.exit(1)
