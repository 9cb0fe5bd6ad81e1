"""From functions over a compressed cache to a shared library of one target."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax
from tvm.support import cc

from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.target import Target
from tqc.errors import PassError, TargetError
from tqc.passes.bundle_arguments import weight_order
from tqc.passes.lower_to_schedules import KernelRecord, LowerToSchedules
from tqc.passes.pipeline import Dump, kernel_passes, lowering_passes, run

from .configurations import Configure
from .schedules import backend

_COMPILER = "install gcc (g++) or name another compiler in $CXX; a full disk also stops it"


@dataclass(frozen=True)
class Built:
    """A library's code and what it expects: `params` names the weights in the order of its tuple argument."""

    target: Target
    executable: relax.VMExecutable
    params: tuple[str, ...]
    kernels: tuple[KernelRecord, ...]

    def export(self, path: Path) -> None:
        """Writes the shared library. Raises TargetError when there is no C++ compiler or it fails."""
        if cc.get_cc() is None:
            raise TargetError("there is no C++ compiler, and libraries cannot be linked without one", hint=_COMPILER)
        try:
            self.executable.export_library(str(path))
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            raise TargetError(
                "the library could not be linked", where=path.name, found=str(error).strip(), hint=_COMPILER
            ) from error


def build(
    mod: tvm.IRModule,
    target: Target,
    weights: MutableMapping[str, Any],
    dump: Dump | None = None,
    configure: Configure | None = None,
) -> Built:
    """Compiles the functions of `mod` for `target`; `weights` learns the layouts the kernels want. `configure`: see
    `backend`.

    Raises PassError if the functions disagree about the weights, TargetError if a toolchain is missing.
    """
    parts = backend(target, weights, configure)
    records: list[KernelRecord] = []
    lower = LowerToSchedules(schedules=parts.schedules, records=records)
    tvm_target = target.tvm_target()
    environment = cuda_build_environment(target) if target.kind == "cuda" else contextlib.nullcontext()
    with environment, tvm_target:
        *kernel, bundle = kernel_passes(parts.prepare, lower, parts.layout_weights)
        mod = run(mod, kernel, dump)
        orders = weight_order(mod)
        params = next(iter(orders.values()))
        if any(order != params for order in orders.values()):
            raise PassError("the functions of the module take different weights", found=str(orders))
        mod = run(mod, [bundle], dump)

        @tvm.transform.module_pass(opt_level=0)
        def pipeline(module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
            return run(module, lowering_passes(parts.schedule, returns_state="forward" not in orders), dump)

        executable = relax.build(mod, tvm_target, relax_pipeline=pipeline)
    return Built(target, executable, tuple(params), tuple(records))
