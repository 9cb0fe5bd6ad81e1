"""Which GPU there is, asked of the driver before anything else is loaded."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tqc.codegen.target import cuda_arch
from tqc.errors import TargetError

DRIVER = "libcuda.so.1"
_MULTIPROCESSORS, _L2_BYTES, _MAJOR, _MINOR = 16, 38, 75, 76
"""The driver's numbers of these attributes (CUdevice_attribute)."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU. `arch`: such as sm_90a. `driver`: of the kernel module, empty if nvidia-smi does not tell."""

    name: str
    arch: str
    multiprocessors: int
    l2_bytes: int
    memory_bytes: int
    driver: str = ""

    def about(self) -> dict[str, Any]:
        return asdict(self)


def find_gpu(load: Callable[[str], Any] = ctypes.CDLL) -> Gpu:
    """Raises TargetError, saying why, where no GPU can be used."""
    try:
        driver = load(DRIVER)
    except OSError as error:
        raise _missing("the driver is not installed", str(error)) from error
    if status := driver.cuInit(0):
        raise _missing("the driver finds no GPU", f"cuInit: error {status}")
    if _number(driver.cuDeviceGetCount) < 1:
        raise _missing("the driver finds no GPU", "0 devices")
    device = ctypes.c_int(_number(driver.cuDeviceGet, 0))
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    multiprocessors, l2, major, minor = (
        _number(driver.cuDeviceGetAttribute, number, device) for number in (_MULTIPROCESSORS, _L2_BYTES, _MAJOR, _MINOR)
    )
    return Gpu(name.value.decode(), cuda_arch(major, minor), multiprocessors, l2, memory.value, driver_version())


def driver_version() -> str:
    """What nvidia-smi says; empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def _number(function: Callable[..., int], *arguments: Any) -> int:
    """The int that a function of the driver writes to its first argument."""
    found = ctypes.c_int()
    if status := function(ctypes.byref(found), *arguments):
        raise _missing("the driver does not answer", f"error {status}")
    return found.value


def _missing(why: str, found: str) -> TargetError:
    return TargetError(
        f"There is no NVIDIA GPU to run on: {why}",
        expected="a GPU with its driver; nothing was compiled or timed",
        found=found,
        hint="run this on a machine with a GPU, or without cuda",
    )
