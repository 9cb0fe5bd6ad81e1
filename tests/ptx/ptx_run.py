"""Runs one kernel of a PTX text on NumPy arrays: for tests of single instructions and of the interpreter itself.

    report = run(text, 2, 128, a, Unwritten(b), 300)

passes arrays as addresses, in the order of the kernel's parameters, and changes them in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ptx_error import PtxError
from ptx_global import GlobalMemory
from ptx_lanes import Dim
from ptx_launch import Launch
from ptx_parse import parse
from ptx_program import Module
from ptx_report import Report


@dataclass(frozen=True)
class Unwritten:
    """An array of which nothing may be read before it is written."""

    array: np.ndarray


def run(
    ptx: str | Module,
    grid: int | Dim,
    block: int | Dim,
    *arguments: np.ndarray | Unwritten | int | float | bytes,
    kernel: str | None = None,
    dynamic: int = 0,
    profile: bool = False,
) -> Report:
    """Launches `kernel`, by default the only one, with `dynamic` bytes of dynamic shared memory.

    Raises PtxError for whatever the kernel does wrong, and for what the interpreter does not know.
    """
    module = parse(ptx) if isinstance(ptx, str) else ptx
    if kernel is None:
        if len(module.entries) != 1:
            raise PtxError(f"one of {', '.join(module.entries)} must be named")
        kernel = next(iter(module.entries))
    if kernel not in module.entries:
        raise PtxError(f"there is no kernel {kernel}, only {', '.join(module.entries)}")
    memory = GlobalMemory()
    names = [param.name for param in module.entries[kernel].params]
    values = [_registered(memory, name, argument) for name, argument in zip(names, arguments, strict=True)]
    return launch(module, kernel, grid, block, values, memory, dynamic=dynamic, profile=profile)


def launch(
    module: Module,
    kernel: str,
    grid: int | Dim,
    block: int | Dim,
    values: list[int | float | bytes],
    memory: GlobalMemory,
    *,
    dynamic: int = 0,
    profile: bool = False,
) -> Report:
    """A launch with addresses of arrays that are registered already."""
    report = Report(kernel, profile=profile)
    started = Launch(module, kernel, _three(grid), _three(block), memory, dynamic=dynamic, report=report)
    started.pass_params(values)
    started.run()
    return report


def _three(size: int | Dim) -> Dim:
    return (size, 1, 1) if isinstance(size, int) else tuple(size)


def _registered(memory: GlobalMemory, name: str, argument) -> int | float | bytes:
    if isinstance(argument, Unwritten):
        return memory.add(name, argument.array, known=False)
    return memory.add(name, argument) if isinstance(argument, np.ndarray) else argument
