"""Scheduled PrimFuncs on the interpreter: through TVM and nvcc to PTX, then called like compiled functions.

    kernels = interpreted({"decode": make_decode(layout, softmax_scale=0.1)}, "sm_90")
    kernels["decode"](*tensors)
    kernels["decode"].reports  # of the launches of the last call

takes NumPy arrays or TVM's tensors on the CPU and changes them in place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable

import numpy as np
import tvm
from ptx_compile import module_of
from ptx_global import GlobalMemory
from ptx_host import KernelCall, Pointer, numpy_type, split, walk
from ptx_program import Module
from ptx_report import Report
from ptx_run import launch
from tvm.tirx import PrimFunc

from tqc.codegen.target import Target


class PtxKernel:
    """A PrimFunc whose kernels run on the interpreter. reports: of the launches of the last call, in order."""

    def __init__(self, host: PrimFunc, module: Module, *, unwritten: Iterable[str], profile: bool) -> None:
        self.host, self.module = host, module
        self.unwritten, self.profile = set(unwritten), profile
        self.reports: list[Report] = []

    def __call__(self, *tensors: np.ndarray | tvm.runtime.Tensor) -> None:
        """Raises PtxError for whatever a kernel does wrong."""
        memory, places = GlobalMemory(), {}
        self.reports = []

        def register(name: str, array: np.ndarray, known: bool) -> None:
            places[id(array)] = memory.add(name, array, known=known)

        def run(call: KernelCall) -> None:
            values = [places[id(v.array)] + v.offset if isinstance(v, Pointer) else v for v in call.arguments]
            self.reports.append(
                launch(
                    self.module,
                    call.kernel,
                    call.grid,
                    call.block,
                    values,
                    memory,
                    dynamic=call.dynamic,
                    profile=self.profile,
                )
            )

        arrays = [as_array(tensor) for tensor in tensors]
        for parameter, array in zip(self.host.params, arrays, strict=True):
            register(str(parameter.name), array, str(parameter.name) not in self.unwritten)
        walk(self.host, arrays, lambda name, array: register(name, array, False), run)


def interpreted(
    kernels: dict[str, PrimFunc], arch: str, *, unwritten: Iterable[str] = ("y",), profile: bool = False
) -> dict[str, PtxKernel]:
    """Kernels for `arch`, compiled together. unwritten: arguments whose bytes are not read before they are written;
    workspaces are such anyway. profile: reports count conflicts, sectors and bytes too."""
    hosts, source = split(kernels, Target("cuda", arch).tvm_target())
    module = module_of(source, arch)
    return {name: PtxKernel(host, module, unwritten=unwritten, profile=profile) for name, host in hosts.items()}


def interpret(kernel: PrimFunc, arch: str, **options) -> Callable:
    """One kernel: what `emulate` gives, but as PTX."""
    return interpreted({"kernel": kernel}, arch, **options)["kernel"]


def as_array(tensor: np.ndarray | tvm.runtime.Tensor) -> np.ndarray:
    """The memory of a tensor as an array, without a copy."""
    if isinstance(tensor, np.ndarray):
        return tensor
    dtype, shape = numpy_type(str(tensor.dtype)), tuple(int(size) for size in tensor.shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    data = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    return np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
