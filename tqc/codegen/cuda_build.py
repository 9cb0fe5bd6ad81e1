"""Building for CUDA: a process in which TVM can put device code into libraries, whether or not it sees a GPU.

TVM writes machine code only if its CUDA runtime library is loaded; otherwise it silently stores CUDA source, to be
compiled at the user's. That library needs libcudart, which the toolkit and the wheels have, and libcuda, which only a
GPU driver brings. Where there is no driver a stub takes its place: every call of it answers "no device".
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tvm
import tvm_ffi
from tvm.support import cc
from tvm_ffi.libinfo import load_lib_ctypes

from tqc.codegen.cuda_toolchain import WHEELS, compile_fatbin, find_nvcc, wheel_folders
from tqc.codegen.target import Target
from tqc.errors import TargetError

_CALLBACK = "tvm_callback_cuda_compile"
_CREATE_MODULE = "ffi.Module.create.cuda"
_CUDART = "libcudart.so.13"
_DRIVER = "libcuda.so.1"
_NO_DEVICE = 100
_DRIVER_SYMBOLS = (
    *("cuInit", "cuDeviceGetName", "cuFuncSetAttribute", "cuGetErrorName", "cuGetErrorString", "cuLaunchKernelEx"),
    *("cuModuleGetFunction", "cuModuleLoadData", "cuModuleUnload", "cuTensorMapEncodeTiled"),
)


@contextmanager
def cuda_build_environment(target: Target) -> Iterator[None]:
    """Inside it `tvm.compile` and `relax.build` turn kernels into machine code for `target.arch`.

    Raises TargetError if nvcc, libcudart or a C compiler is missing, or TVM's CUDA runtime does not load.
    """
    nvcc = find_nvcc()
    load_cuda_runtime()
    before = tvm_ffi.get_global_func(_CALLBACK)
    refused: list[TargetError] = []

    def compile_kernels(source: str) -> bytes:
        try:
            return compile_fatbin(source, target.arch, nvcc)
        except TargetError as error:
            refused.append(error)
            raise

    tvm_ffi.register_global_func(_CALLBACK, compile_kernels, override=True)
    try:
        yield
    except RuntimeError as error:
        if refused:  # on its way through TVM the error has become a RuntimeError
            raise refused[0] from error
        raise
    finally:
        tvm_ffi.register_global_func(_CALLBACK, before, override=True)


def load_cuda_runtime() -> None:
    """Loads TVM's CUDA runtime into this process, over a stub driver if there is no real one. Later calls do nothing.

    A process with the stub can build for CUDA but never run on a GPU: on a machine with a driver none is made.
    """
    if tvm_ffi.get_global_func(_CREATE_MODULE, allow_missing=True):
        return
    _load_cudart()
    try:
        ctypes.CDLL(_DRIVER, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _load_stub_driver()
    load_lib_ctypes("tvm", "tvm_runtime_cuda", "RTLD_LOCAL", extra_lib_paths=tvm.libinfo.package_lib_paths())
    if not tvm_ffi.get_global_func(_CREATE_MODULE, allow_missing=True):
        raise TargetError("TVM's CUDA runtime is loaded but registers no module loader", expected=_CREATE_MODULE)


def _load_cudart() -> None:
    folders = [folder / "lib" for folder in wheel_folders()] + list(find_nvcc().library_folders)
    for name in (_CUDART, *(str(folder / _CUDART) for folder in folders)):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise TargetError(
        f"{_CUDART} was not found, and TVM's CUDA runtime needs it",
        expected=f"on the loader's path or in {', '.join(map(str, folders))}",
        hint=f"install the CUDA toolkit 13, or run {WHEELS}",
    )


def _load_stub_driver() -> None:
    functions = "".join(f"int {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in _DRIVER_SYMBOLS)
    with tempfile.TemporaryDirectory(prefix="tqc-stub-") as folder:
        source, library = Path(folder, "stub.c"), Path(folder, _DRIVER)
        source.write_text(functions, encoding="utf-8")
        compiler = cc.get_cc() or "cc"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{_DRIVER}", "-x", "c", str(source), "-o", str(library)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise TargetError(
                "the stub of the GPU driver could not be built",
                found=f"{error} {getattr(error, 'stderr', '') or ''}".strip(),
                hint="install a C compiler (gcc or clang); exporting a library needs it too",
            ) from error
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
