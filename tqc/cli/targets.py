"""`tqc targets`: what can be compiled for on this machine."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table

from ..errors import TargetError
from .output import console, plain, print_json, status


@dataclass(frozen=True)
class Row:
    """One architecture. `builds` and `runs` say why not, or are empty; `runs` is None where only a GPU could tell."""

    target: str
    arch: str
    default: bool
    builds: str
    runs: str | None


def targets(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List targets and architectures, and whether this machine can build for and run them."""
    with status("loading the compiler"):
        rows = describe()
    if json:
        print_json([asdict(row) for row in rows])
        return
    table = Table("--target", "--arch", "default", "builds here", "runs here")
    for row in rows:
        runs = "–" if row.runs is None else row.runs or "yes"
        table.add_row(*plain(row.target, row.arch, "yes" if row.default else "", row.builds or "yes", runs))
    console().print(table)


def describe() -> list[Row]:
    """All architectures of all targets."""
    from ..codegen.target import CPU_ISA, CUDA_ARCHS, DEFAULT_CUDA_ARCHS
    from ..cpu_levels import best_level, machine_flags, missing_flags

    flags = machine_flags()
    linker = "" if shutil.which("g++") or shutil.which("gcc") else "no gcc"
    rows = [
        Row("cpu", level, level == best_level(flags), linker, _lacks(missing_flags(level, flags))) for level in CPU_ISA
    ]
    missing = linker or _nvcc_missing()
    return rows + [Row("cuda", arch, arch in DEFAULT_CUDA_ARCHS, missing, None) for arch in CUDA_ARCHS]


def _lacks(flags: tuple[str, ...]) -> str:
    return f"lacks {', '.join(flags)}" if flags else ""


def _nvcc_missing() -> str:
    from ..codegen.cuda_toolchain import find_nvcc

    try:
        find_nvcc()
    except TargetError:
        return "no nvcc"
    return ""
