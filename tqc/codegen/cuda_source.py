"""The CUDA C++ that TVM writes for kernels, without compiling it."""

from __future__ import annotations

import re
from collections.abc import Mapping

import tvm
import tvm_ffi

from tqc.codegen.target import Target

_CALLBACK = "tvm_callback_cuda_compile"
_BOUNDS = re.compile(r"__launch_bounds__\((\d+)(?:, *\d+)?\) +(\w+)\(")


def cuda_source(kernels: Mapping[str, tvm.tirx.PrimFunc], target: Target) -> str:
    """One source with the launches of all PrimFuncs: those of `decode` are decode_kernel, decode_kernel_1, …"""
    named = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    # Where TVM's CUDA runtime is loaded, TVM compiles at once: that is not wanted here.
    before = tvm_ffi.get_global_func(_CALLBACK)
    tvm_ffi.register_global_func(_CALLBACK, lambda _source: b"not compiled", override=True)
    try:
        built = tvm.compile(tvm.IRModule(named), target=target.tvm_target())
    finally:
        tvm_ffi.register_global_func(_CALLBACK, before, override=True)
    return built.mod.imports[0].inspect_source("cuda")


def block_sizes(source: str) -> dict[str, int]:
    """Threads of a block of every launch in a source, by name."""
    return {name: int(threads) for threads, name in _BOUNDS.findall(source)}
