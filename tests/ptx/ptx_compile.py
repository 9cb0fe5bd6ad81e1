"""CUDA C++ to PTX with the project's nvcc and its flags; the same source is compiled once a process."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

import pytest
from ptx_error import PtxError
from ptx_parse import parse
from ptx_program import Module

from tqc.codegen import cuda_toolchain
from tqc.errors import TargetError


def needs_nvcc() -> None:
    """Skips the test where there is no nvcc."""
    try:
        cuda_toolchain.find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))


@functools.cache
def compile_ptx(source: str, arch: str) -> str:
    """PTX for `arch`, such as sm_90. Raises PtxError with nvcc's messages."""
    nvcc = cuda_toolchain.find_nvcc()
    with tempfile.TemporaryDirectory(prefix="tqc-ptx-") as folder:
        Path(folder, "kernels.cu").write_text(source, encoding="utf-8")
        command = [str(nvcc.path), "--ptx", *cuda_toolchain._FLAGS, f"-arch={arch}", "-o", "kernels.ptx", "kernels.cu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise PtxError(f"nvcc could not compile the kernels for {arch}:\n{done.stderr or done.stdout}")
        return Path(folder, "kernels.ptx").read_text(encoding="utf-8")


@functools.cache
def module_of(source: str, arch: str) -> Module:
    """The parsed PTX of CUDA C++."""
    return parse(compile_ptx(source, arch))
