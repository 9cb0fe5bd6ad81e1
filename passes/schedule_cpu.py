"""Vector and parallel loops for the functions that TVM's own lowering generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import tvm
from tvm import relax, tirx

from tqc.schedules.cpu_loops import schedule_loops

from .base import ModulePass


@dataclass(frozen=True)
class ScheduleCpu(ModulePass):
    """Schedules every PrimFunc without `tirx.is_scheduled`; one of a form it does not know stays as it is."""

    name: ClassVar[str] = "schedule-cpu"

    def apply(self, mod: tvm.IRModule) -> tvm.IRModule:
        out = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
        for gv, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and "tirx.is_scheduled" not in (func.attrs or {}):
                if relax.analysis.has_reshape_pattern(func):
                    continue  # a later pass makes it a view, if it still looks like a reshape
                scheduled = schedule_loops(func)
                if scheduled is not None:
                    out[gv] = scheduled
        return out
