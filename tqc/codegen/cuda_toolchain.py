"""nvcc: where it is found and how device code is compiled with it."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tqc.errors import TargetError

WHEELS = "pip install 'turboquant-compiler[cuda]'"

_FLAGS = (
    *("-O3", "-std=c++17", "--expt-relaxed-constexpr", "--expt-extended-lambda"),
    *("-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__"),
    *("-U__CUDA_NO_BFLOAT16_OPERATORS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__"),
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
)
# No --use_fast_math, TVM's default: its sin and cos are wrong for the angles of far positions, its tanh has 11 bits.


@dataclass(frozen=True)
class Nvcc:
    """An nvcc that runs. path: the program; version: such as `13.0`; source: what led to it."""

    path: Path
    version: str
    source: str

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """Where the CUDA runtime library lies beside this nvcc, in the toolkit's layout and in the wheels'."""
        root = self.path.resolve().parent.parent
        return (root / "lib64", root / "lib", root / "targets" / "x86_64-linux" / "lib")


def find_nvcc() -> Nvcc:
    """nvcc from $CUDA_HOME or $CUDA_PATH, from PATH, or from NVIDIA's wheels, the first that runs.

    Raises TargetError with the places searched if there is none.
    """
    rejected = []
    for source, path in _candidates():
        version = _version(path)
        if version:
            return Nvcc(path, version, source)
        rejected.append(f"{path} does not run")
    raise TargetError(
        "nvcc was not found, and CUDA kernels cannot be compiled without it",
        expected="nvcc in $CUDA_HOME/bin, in $CUDA_PATH/bin, on PATH, or from the wheel nvidia-cuda-nvcc",
        found="; ".join(rejected),
        hint=f"install the CUDA toolkit 13 and set CUDA_HOME, or run {WHEELS}",
    )


def _candidates() -> list[tuple[str, Path]]:
    found = [
        (f"${name}", Path(os.environ[name], "bin", "nvcc")) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ
    ]
    on_path = shutil.which("nvcc")
    found += [("PATH", Path(on_path))] if on_path else []
    found += [("wheel nvidia-cuda-nvcc", folder / "bin" / "nvcc") for folder in wheel_folders()]
    return [(source, path) for source, path in found if path.is_file()]


def wheel_folders() -> tuple[Path, ...]:
    """The folders in which NVIDIA's CUDA 13 wheels put bin, include, lib and nvvm."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else ()
    return tuple(folder for place in places if (folder := Path(place, "cu13")).is_dir())


@functools.lru_cache
def _version(path: Path) -> str | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"release (\d+\.\d+)", done.stdout)
    return match.group(1) if match else None


@dataclass(frozen=True)
class DeviceCode:
    """What nvcc makes of a source: the file's bytes, and the compiler's own messages."""

    code: bytes
    said: str


def compile_fatbin(source: str, arch: str, nvcc: Nvcc | None = None) -> bytes:
    """CUDA C++ to a fat binary that holds machine code for `arch` (such as `sm_90`) and nothing else.

    The same source and nvcc give the same bytes: names in the output are relative, and none is random.
    Raises TargetError with nvcc's own messages if it rejects the source.
    """
    return compile_device_code(source, arch, nvcc).code


def compile_device_code(
    source: str, arch: str, nvcc: Nvcc | None = None, *, form: str = "fatbin", verbose: bool = False
) -> DeviceCode:
    """CUDA C++ to machine code for `arch`, as `form`: a fatbin or a cubin. `verbose`: ptxas says which resources each
    kernel takes (`tqc.codegen.resources` reads that); the instructions are the same, but files note the option.
    Raises TargetError as `compile_fatbin`."""
    nvcc = nvcc or find_nvcc()
    number = arch.removeprefix("sm_")
    command = [str(nvcc.path), f"--{form}", *_FLAGS, "-gencode", f"arch=compute_{number},code={arch}"]
    if verbose:
        command += ["-Xptxas", "-v", "--disable-warnings"]
    with tempfile.TemporaryDirectory(prefix="tqc-nvcc-") as folder:
        Path(folder, "kernels.cu").write_text(source, encoding="utf-8")
        command += ["-o", f"kernels.{form}", "kernels.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise TargetError(
                f"nvcc could not compile the kernels for {arch}",
                where=f"{nvcc.path} {nvcc.version}",
                found=(done.stderr or done.stdout).strip(),
                hint=f"nvcc needs a C++ compiler on PATH; its own headers come with the toolkit or with {WHEELS}",
            )
        return DeviceCode(Path(folder, f"kernels.{form}").read_bytes(), done.stderr + done.stdout)


def find_nvdisasm() -> Path:
    """nvdisasm beside nvcc, on PATH, or from NVIDIA's wheel. Raises TargetError if there is none."""
    on_path = shutil.which("nvdisasm")
    found = [path.parent / "nvdisasm" for _, path in _candidates()]
    found += [Path(on_path)] if on_path else []
    found += [folder / "bin" / "nvdisasm" for folder in wheel_folders()]
    for path in found:
        if path.is_file():
            return path
    raise TargetError(
        "nvdisasm was not found, and machine code cannot be read without it",
        expected="nvdisasm beside nvcc, on PATH, or from the wheel nvidia-cuda-nvdisasm",
        hint="install the CUDA toolkit, or run pip install nvidia-cuda-nvdisasm",
    )
