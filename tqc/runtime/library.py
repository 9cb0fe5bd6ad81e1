"""TVM's runtime library and a model's library, loaded without TVM's compiler or its Python package."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import threading
from collections.abc import Callable
from pathlib import Path

import tvm_ffi

from ..errors import SessionError
from .threads import set_default_threads

CPU, CUDA = 1, 2
"""DLPack device types."""
_POOLED = 2
"""The VM's allocator that keeps freed memory for the next call."""
CUDART = "libcudart.so.13"
"""The CUDA runtime that TVM's wheel was linked with."""


@functools.cache
def _tvm_libraries() -> Path:
    """The folder with TVM's shared libraries, found without importing TVM."""
    spec = importlib.util.find_spec("tvm")
    if spec is None or not spec.submodule_search_locations:
        raise SessionError("TVM's runtime library is not installed", hint="pip install turboquant-compiler")
    return Path(spec.submodule_search_locations[0]) / "lib"


@functools.cache
def load_runtime(kind: str = "cpu") -> None:
    """Makes the runtime for `cpu` or `cuda` available in this process. Raises SessionError when it cannot be loaded."""
    if kind == "cpu":
        set_default_threads()
    if kind == "cuda":
        load_runtime("cpu")
        _load_cudart()
    name = {"cpu": "libtvm_runtime.so", "cuda": "libtvm_runtime_cuda.so"}[kind]
    try:
        ctypes.CDLL(str(_tvm_libraries() / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        hint = "an NVIDIA driver and libcudart are needed" if kind == "cuda" else "reinstall apache-tvm"
        raise SessionError(f"{name} cannot be loaded", found=str(error), hint=hint) from error


def _load_cudart() -> None:
    """Loads the CUDA runtime that TVM's was linked with, from PyPI's wheels, a toolkit or the loader's path."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    found = [path for root in roots for path in sorted(root.glob(f"*/lib/{CUDART}"))]
    toolkits = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    found += [folder / "lib64" / CUDART for folder in toolkits]
    for name in (*(str(path) for path in found if path.is_file()), CUDART):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError as error:
            last = error
    raise SessionError(
        f"{CUDART} cannot be loaded", found=str(last), hint="pip install nvidia-cuda-runtime, or set CUDA_HOME"
    ) from last


_mapping = threading.Lock()


@functools.cache
def _map(path: Path, *_identity: int) -> tvm_ffi.Module:
    """The module of a file, once in a process and for as long as it lives.

    The system maps a file once. Each new module would redirect the mapped code to itself when it looks up its device
    kernels, and leave it pointing nowhere when it goes, under the sessions that are still running.
    """
    return tvm_ffi.load_module(path)


def open_library(path: Path, kind: str, index: int) -> Callable[[str], tvm_ffi.Function]:
    """Maps the library and starts TVM's VM on the device; returns a function from VM function names to functions.

    Raises SessionError when the system cannot map the library or it is not one of a model.
    """
    load_runtime(kind)
    state = path.stat()
    try:
        with _mapping:
            module = _map(path.resolve(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    except RuntimeError as error:
        raise SessionError("The library cannot be loaded", where=str(path), found=str(error)) from error
    if not module.implements_function("vm_load_executable"):
        raise SessionError("The library holds no model", where=str(path))
    vm = module["vm_load_executable"]()
    host = (CPU, 0, _POOLED)
    vm["vm_initialization"](*((CUDA, index, _POOLED) if kind == "cuda" else ()), *host)

    def function(name: str) -> tvm_ffi.Function:
        if not vm.implements_function(name):
            raise SessionError("The library lacks a function", where=str(path), expected=name)
        return vm[name]

    return function
