"""The few functions of the CUDA runtime that timing needs, on the default stream, on which TVM and torch launch too."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from tqc.errors import TargetError

LIBRARY = "libcudart.so.13"
_DEVICE_TO_DEVICE = 3
FLUSH_BYTES = 512 << 20
"""Written before each timed call: several times any L2, and long enough that the call is launched before it ends, so
that the time the host takes to launch it is not counted."""


class Cudart:
    """The runtime. Raises TargetError where a call fails."""

    def __init__(self, library: Any = None) -> None:
        self._library = library or ctypes.CDLL(LIBRARY)
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            text = self._library.cudaGetErrorString(status)
            raise TargetError(f"CUDA failed: {name}", found=f"error {status}: {text.decode()}")

    def malloc(self, size: int) -> int:
        """The address of new memory."""
        found = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(found), ctypes.c_size_t(size))
        return found.value

    def fill(self, address: int, size: int, value: int = 0) -> None:
        self._call("cudaMemsetAsync", ctypes.c_void_p(address), ctypes.c_int(value), ctypes.c_size_t(size), None)

    def copy(self, target: int, source: int, size: int) -> None:
        """From device memory to device memory."""
        to, at = ctypes.c_void_p(target), ctypes.c_void_p(source)
        self._call("cudaMemcpyAsync", to, at, ctypes.c_size_t(size), ctypes.c_int(_DEVICE_TO_DEVICE), None)

    def free_bytes(self) -> int:
        """Memory of the device that can be allocated."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def synchronize(self) -> None:
        self._call("cudaDeviceSynchronize")

    def event(self) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(made))
        return made

    def record(self, event: ctypes.c_void_p) -> None:
        self._call("cudaEventRecord", event, None)

    def seconds(self, start: ctypes.c_void_p, stop: ctypes.c_void_p) -> float:
        """Between two events, once the second is reached."""
        self._call("cudaEventSynchronize", stop)
        found = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(found), start, stop)
        return found.value / 1e3


class EventTimer:
    """Seconds that a call keeps the device busy, by events around it, its data not in L2."""

    def __init__(self, cudart: Cudart, flush_bytes: int = FLUSH_BYTES) -> None:
        self._cudart, self._size = cudart, flush_bytes
        self._memory = cudart.malloc(flush_bytes)
        self._events = cudart.event(), cudart.event()

    def __call__(self, call: Callable[[], Any]) -> float:
        start, stop = self._events
        self._cudart.fill(self._memory, self._size)
        self._cudart.record(start)
        call()
        self._cudart.record(stop)
        return self._cudart.seconds(start, stop)
