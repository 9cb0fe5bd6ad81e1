"""The small arrays that every step gives a model, in memory that stays where it is."""

from __future__ import annotations

import numpy as np
import tvm_ffi

from .device import Device


class Inputs:
    """Tensors on a device by name, allocated when one has another shape than before.

    A step neither allocates nor frees device memory then, which on a GPU would make it wait for all that runs, and what
    it reads has the same address as in the step before.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._tensors: dict[str, tvm_ffi.Tensor] = {}

    def put(self, name: str, array: np.ndarray) -> tvm_ffi.Tensor:
        """The tensor `name`, holding `array` from now on."""
        tensor = self._tensors.get(name)
        if tensor is None or tuple(tensor.shape) != array.shape or str(tensor.dtype) != str(array.dtype):
            tensor = self._tensors[name] = self._device.zeros(array.shape, str(array.dtype))
        self._device.refill(tensor, array)
        return tensor
