"""Tensors on the device a session runs on: allocated once, filled, read back."""

from __future__ import annotations

import math
import re
from typing import Protocol

import numpy as np
import tvm_ffi

from ..artifact.params import ALIGNMENT, storage_dtype
from ..errors import SessionError
from .library import load_runtime

_COMPUTE_CAPABILITY = 4
"""TVM's number of the device attribute."""


class Device(Protocol):
    """What a session needs of a device. Tensors are `tvm_ffi.Tensor`, contiguous."""

    kind: str
    index: int

    def zeros(self, shape: tuple[int, ...], dtype: str) -> tvm_ffi.Tensor: ...

    def upload(self, array: np.ndarray, dtype: str | None = None) -> tvm_ffi.Tensor: ...

    def refill(self, tensor: tvm_ffi.Tensor, array: np.ndarray) -> None: ...

    def download(self, tensor: tvm_ffi.Tensor) -> np.ndarray: ...


def open_device(name: str) -> Device:
    """The device `cpu`, `cuda` or `cuda:N`. Raises SessionError for another name or a device that is not there."""
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if match is None:
        raise SessionError("Unknown device", expected="cpu, cuda or cuda:N", found=name)
    if name == "cpu":
        load_runtime("cpu")
        return CpuDevice()
    load_runtime("cuda")
    device = RuntimeDevice("cuda", int(match[1] or 0))
    if not device.exists:
        raise SessionError("There is no such GPU", where=name)
    return device


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
    """Zeros whose first byte lies where the kernels expect it; pages are taken from the system when first written."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.zeros(nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + nbytes].view(dtype).reshape(shape)


def as_dtype(tensor: tvm_ffi.Tensor, dtype: str) -> tvm_ffi.Tensor:
    """The same memory under another dtype of equal size (bfloat16, which NumPy lacks)."""
    if str(tensor.dtype) == dtype:
        return tensor
    view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
    return view(tensor, tvm_ffi.Shape(tensor.shape), tvm_ffi.dtype(dtype), 0)


class CpuDevice:
    """Host memory, shared with NumPy."""

    kind, index = "cpu", 0

    def zeros(self, shape: tuple[int, ...], dtype: str) -> tvm_ffi.Tensor:
        return as_dtype(tvm_ffi.from_dlpack(aligned_zeros(shape, storage_dtype(dtype))), dtype)

    def upload(self, array: np.ndarray, dtype: str | None = None) -> tvm_ffi.Tensor:
        """Wraps `array` where it lies if it is aligned and contiguous, else a copy."""
        if array.ctypes.data % ALIGNMENT or not array.flags.c_contiguous or not array.flags.writeable:
            source, array = array, aligned_zeros(array.shape, array.dtype)
            array[...] = source
        return as_dtype(tvm_ffi.from_dlpack(array), dtype or str(array.dtype))

    def refill(self, tensor: tvm_ffi.Tensor, array: np.ndarray) -> None:
        """Overwrites a tensor of `zeros` with an array of its shape and type."""
        np.from_dlpack(tensor)[...] = array

    def download(self, tensor: tvm_ffi.Tensor) -> np.ndarray:
        """A copy: the VM reuses its own memory in the next call."""
        return np.from_dlpack(tensor).copy()


class RuntimeDevice:
    """Memory that TVM's runtime allocates and copies, for any device it knows."""

    def __init__(self, kind: str, index: int) -> None:
        self.kind, self.index = kind, index
        self._device = tvm_ffi.device(kind, index)
        prefix = "runtime.TVMTensor"
        self._alloc = tvm_ffi.get_global_func(f"{prefix}AllocWithScope")
        self._from_bytes = tvm_ffi.get_global_func(f"{prefix}CopyFromBytes")
        self._to_bytes = tvm_ffi.get_global_func(f"{prefix}CopyToBytes")

    @property
    def exists(self) -> bool:
        return bool(self._attribute(0))

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability of a GPU, as (major, minor)."""
        major, minor = str(self._attribute(_COMPUTE_CAPABILITY)).split(".")
        return int(major), int(minor)

    def _attribute(self, number: int) -> object:
        get = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
        return get(self._device.dlpack_device_type(), self.index, number)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> tvm_ffi.Tensor:
        tensor = self._alloc(tvm_ffi.Shape(shape), tvm_ffi.dtype(dtype), self._device, None)
        # A kernel multiplies padding lanes by zero: memory must not hold NaN. One copy of calloc'ed pages per tensor.
        self.refill(tensor, np.zeros(shape, storage_dtype(dtype)))
        return tensor

    def upload(self, array: np.ndarray, dtype: str | None = None) -> tvm_ffi.Tensor:
        tensor = self._alloc(tvm_ffi.Shape(array.shape), tvm_ffi.dtype(dtype or str(array.dtype)), self._device, None)
        self.refill(tensor, array)
        return tensor

    def refill(self, tensor: tvm_ffi.Tensor, array: np.ndarray) -> None:
        """Overwrites a tensor with an array of its shape and type."""
        array = np.ascontiguousarray(array)
        if array.nbytes:
            self._from_bytes(tensor, _pointer(array), array.nbytes)

    def download(self, tensor: tvm_ffi.Tensor) -> np.ndarray:
        array = np.empty(tuple(tensor.shape), storage_dtype(str(tensor.dtype)))
        if array.nbytes:
            self._to_bytes(tensor, _pointer(array), array.nbytes)
        return array


def _pointer(array: np.ndarray) -> object:
    import ctypes

    return ctypes.c_void_p(array.ctypes.data)
