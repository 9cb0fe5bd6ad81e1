"""The kernel of one configuration, as the whole model would have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm

from tqc.bench.filled_cache import Turns
from tqc.bench.kernels import generated
from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.compiler.configurations import fixed
from tqc.compiler.schedules import backend
from tqc.errors import TargetError

SCHEDULES = ("decode", "prefill")
"""Those whose results are checked here. Append is a small part of a step, and has four configurations."""


@dataclass(frozen=True)
class Kernel:
    """A PrimFunc not compiled yet; `dtype`: of its queries and outputs, `turns`: what it rotates itself."""

    function: tvm.tirx.PrimFunc
    dtype: str
    turns: Turns = ()


def kernel_of(target: Target, schedule: str, layout: CacheLayout, config: Any) -> Kernel:
    """The kernel of a schedule with `config`. Raises TargetError if the schedule does not take the configuration."""
    configure = fixed(target, schedule, config)
    if schedule == "decode":
        made = generated(layout, target, configure)
        return Kernel(made.functions["decode"], made.dtype, made.turns)
    dtype = "float16" if target.kind == "cuda" else "float32"
    options: dict[str, Any] = {"softmax_scale": layout.head_dim**-0.5, "softcap": 0.0, "window": 0}
    if target.kind == "cuda":
        options["dtype"] = dtype
    function = backend(target, {}, configure).schedules.prefill(layout, **options)
    return Kernel(function.with_attr("global_symbol", "prefill"), dtype)


def check_schedule(name: str) -> None:
    """Raises TargetError for a kernel that cannot be tuned."""
    if name not in SCHEDULES:
        raise TargetError("This kernel cannot be tuned", expected=" or ".join(SCHEDULES), found=name)
