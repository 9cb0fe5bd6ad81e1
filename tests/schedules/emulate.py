"""Running CUDA kernels on the CPU: the same PrimFunc, with threads and blocks turned into loops.

Every phase of a kernel becomes a loop over its threads, which is what bulk-synchronous kernels allow. `reverse` runs
blocks and threads backwards: a result that changes shows two threads of a phase that are not independent.
"""

from __future__ import annotations

import re

import tvm
from tvm import tirx

_BINDING = re.compile(r"^(\s*)for (\w+) in T\.thread_binding\((.*), thread=\"[\w.]+\"\):$", re.MULTILINE)
_BARRIER = re.compile(r"^(\s*)T\.tvm_storage_sync\(.*\)$", re.MULTILINE)
_SHARED = ', scope="shared"'


def as_serial(kernel: tirx.PrimFunc, *, reverse: bool = False) -> tirx.PrimFunc:
    """`kernel` with thread bindings as serial loops, shared arrays as ordinary ones, and no barriers."""

    def loop(match: re.Match) -> str:
        indent, index, extent = match.groups()
        if not reverse:
            return f"{indent}for {index} in range({extent}):"
        kind = "int32" if extent.isdigit() else "int64"
        body = f"{indent}    {index}: T.let[T.{kind}] = ({extent}) - 1 - {index}_r"
        return f"{indent}for {index}_r in range({extent}):\n{body}"

    text = kernel.script()
    text = _BINDING.sub(loop, text.replace(_SHARED, ""))
    text = _BARRIER.sub(r"\1T.evaluate(0)", text).replace("in T.unroll(", "in range(")
    assert "thread_binding" not in text
    assert "storage_sync" not in text
    return tvm.script.from_source(text, s_tir=True)


def emulate(kernel: tirx.PrimFunc, *, reverse: bool = False) -> tvm.runtime.Executable:
    """The kernel as a function of the CPU: takes the kernel's arguments as CPU tensors."""
    serial = as_serial(kernel, reverse=reverse).with_attr("global_symbol", "kernel")
    return tvm.compile(serial, target=tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"}))["kernel"]
