"""`tqc verify`: every file of an artifact against its manifest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import TqcError
from .output import console, print_json, size, status


def verify(
    artifact: Annotated[Path, typer.Argument(help="The artifact's directory.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check every file of an artifact; the status is 1 when one is missing, damaged or changed."""
    from ..artifact import problems, read_manifest

    manifest = read_manifest(artifact)
    with status(f"checking {artifact.name}"):
        found = {problem.file: problem for problem in problems(artifact, manifest)}
    refusal = _refusal(manifest)
    if json:
        print_json(
            {
                "ok": not found,
                "files": {name: entry.model_dump() for name, entry in manifest.files.items()},
                "problems": [asdict(problem) for problem in found.values()],
                "runs_on_this_cpu": refusal is None,
                "refusal": refusal,
            }
        )
    else:
        out = console()
        for name, entry in manifest.files.items():
            out.print(
                f"{found[name].reason if name in found else 'ok':<10} {size(entry.size):>12}  {name}", markup=False
            )
        for problem in found.values():
            out.print(f"{problem.error()}", markup=False)
        out.print("Runs on this CPU." if refusal is None else f"Does not run on this CPU:\n{refusal}", markup=False)
    if found:
        raise typer.Exit(1)


def _refusal(manifest) -> str | None:
    """Why this machine's CPU cannot run the artifact; that is no fault of the artifact."""
    from ..artifact.versions import check_versions
    from ..runtime.cpu import choose_cpu

    try:
        check_versions(manifest)
        choose_cpu(manifest)
    except TqcError as error:
        return str(error)
    return None
