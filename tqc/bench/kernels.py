"""The kernels of a cache, from the schedules and with the decisions that `tqc compile` takes for the same target."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes  # noqa: F401 (NumPy learns bfloat16)
import tvm

from tqc.codec import scheme
from tqc.codec.layout import CacheLayout
from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.target import Target
from tqc.compiler.configurations import Configure
from tqc.compiler.schedules import STORAGE, backend
from tqc.errors import TqcError

from .filled_cache import Turns
from .problem import Geometry

ROTATION = (0, 1)
"""Seed and rounds of the rotations that kernels do themselves: those of `tqc compile`."""


@dataclass(frozen=True)
class Kernels:
    """decode(q, length, new_len, page_table, *state, y) and append(k, v, length, new_len, page_table, *state) of one
    layout, by name; `dtype`: of queries, new keys and values, and outputs. `turns`: what decode rotates itself."""

    layout: CacheLayout
    dtype: str
    turns: Turns
    config: dict[str, int | float | str | bool]
    functions: dict[str, Callable[..., None]]


def scheme_list(text: str) -> list[str]:
    """The schemes of a list with commas, each once. Raises CodecError if a name is unknown, TqcError without any."""
    found = [name.strip() for name in re.split(r",(?!\s*v:)", text) if name.strip()]
    if not found:
        raise TqcError("no scheme is named", where="--kv", expected="tq4,k4v3,fp16", found=text)
    for name in found:
        scheme.parse(name)
    return list(dict.fromkeys(found))


def layout_of(kv: str, geometry: Geometry, target: Target) -> CacheLayout:
    """The cache of a scheme as the kernels of the target hold it."""
    storage = STORAGE[target.kind]
    return CacheLayout(
        geometry.heads,
        geometry.kv_heads,
        geometry.dim,
        *scheme.parse(kv),
        exact_dtype=storage.exact_dtype,
        order=storage.order,
    )


def generated(layout: CacheLayout, target: Target, configure: Configure | None = None) -> Kernels:
    """The kernels as TVM's functions, not compiled, configured as `backend` says. Raises TargetError if the target has
    none for the layout."""
    schedules = backend(target, {}, configure).schedules
    on_gpu, turned = target.kind == "cuda", _turned(layout, target)
    dtype = "float16" if on_gpu else "float32"
    decode: dict[str, object] = {"softmax_scale": layout.head_dim**-0.5, "softcap": 0.0, "window": 0}
    append: dict[str, object] = {}
    if on_gpu:
        decode |= {"dtype": dtype, "turns": turned["decode"]}
        append |= {"dtype": dtype, "turns": turned["append"], "tokens": 1}
    made = {"decode": schedules.decode(layout, **decode), "append": schedules.append(layout, **append)}
    functions = {name: function.with_attr("global_symbol", name) for name, function in made.items()}
    return Kernels(layout, dtype, turned["decode"], dict(schedules.decisions("decode", layout)), functions)


def compiled(kernels: Kernels, target: Target) -> Kernels:
    """The same as functions to call. Raises TargetError if a toolchain is missing."""
    environment = cuda_build_environment(target) if target.kind == "cuda" else contextlib.nullcontext()
    with environment:
        module = tvm.compile(tvm.IRModule(kernels.functions), target=target.tvm_target())
    return replace(kernels, functions={name: module[name] for name in kernels.functions})


def _turned(layout: CacheLayout, target: Target) -> dict[str, Turns]:
    """What the CUDA kernels of a whole model rotate themselves, where they can: `passes/fuse_rotations.py`."""
    found: dict[str, list[tuple[str, tuple[int, int]]]] = {"decode": [], "append": []}
    if target.kind == "cuda":
        from tqc.schedules.cuda_queries import can_turn

        for side, outer in (("k", "q"), ("v", "y")):
            form = layout.form(side)
            if form.basis == "rotation" and can_turn(layout.head_dim):
                found["append"].append((side, ROTATION))
                # Behind queries and outputs with a sketch's rows the rotation is a kernel of its own.
                if not form.sketch_rows:
                    found["decode"].append((outer, ROTATION))
    return {kernel: tuple(sorted(turns)) for kernel, turns in found.items()}
