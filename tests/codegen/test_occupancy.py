"""Occupancy, against worked examples and against NVIDIA's own calculator, which comes with the toolkit as a header."""

from __future__ import annotations

import ctypes
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.codegen.occupancy import Occupancy, occupancy
from tqc.errors import TargetError
from tqc.gpu_limits import LIMITS, gpu_limits

SOURCE = """
#include <stddef.h>
#include <string.h>
#include <limits.h>
#include "cuda_occupancy.h"
int blocks(int major, int minor, int warps, int shared, int optin, int threads, int registers, int bytes) {
    cudaOccDeviceProp p; memset(&p, 0, sizeof p);
    p.computeMajor = major; p.computeMinor = minor; p.maxThreadsPerBlock = 1024; p.warpSize = 32;
    p.maxThreadsPerMultiprocessor = 32 * warps; p.regsPerBlock = p.regsPerMultiprocessor = 65536;
    p.sharedMemPerBlock = 49152; p.sharedMemPerMultiprocessor = shared; p.numSms = 1;
    p.sharedMemPerBlockOptin = optin; p.reservedSharedMemPerBlock = 1024;
    cudaOccFuncAttributes f; memset(&f, 0, sizeof f);
    f.maxThreadsPerBlock = 1024; f.numRegs = registers; f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    f.maxDynamicSharedSizeBytes = optin; f.numBlockBarriers = 1;
    cudaOccDeviceState s; memset(&s, 0, sizeof s); s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult r;
    cudaOccError e = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, threads, bytes);
    return e == CUDA_OCC_SUCCESS ? r.activeBlocksPerMultiprocessor : -(int)e;
}
"""


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "expected"),
    [
        ("sm_80", 128, 168, 0, Occupancy(3, 12, 12 / 64, "registers")),
        ("sm_90", 128, 32, 0, Occupancy(16, 64, 1.0, "warps")),
        ("sm_86", 32, 32, 0, Occupancy(16, 16, 16 / 48, "blocks")),
        ("sm_90", 128, 64, 100_000, Occupancy(2, 8, 8 / 64, "shared memory")),
        ("sm_80", 512, 255, 0, Occupancy(0, 0, 0.0, "registers")),
        ("sm_86", 128, 32, 100 * 1024, Occupancy(0, 0, 0.0, "shared memory")),
    ],
)
def test_examples(arch: str, threads: int, registers: int, shared: int, expected: Occupancy) -> None:
    assert occupancy(arch, threads=threads, registers=registers, shared=shared) == expected


@pytest.fixture(scope="module")
def calculator(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    try:
        nvcc = find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("occupancy")
    Path(folder, "blocks.c").write_text(SOURCE)
    # nvcc knows where its toolkit's headers are
    command = [str(nvcc.path), "-shared", "-Xcompiler", "-fPIC", "-cudart", "none", "-o", "blocks.so", "blocks.c"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "cuda_occupancy.h" in done.stderr:
        pytest.skip("this toolkit has no cuda_occupancy.h")
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "blocks.so")).blocks


@pytest.mark.parametrize("arch", [arch for arch in LIMITS if arch[-1].isdigit()])
def test_it_is_what_the_toolkit_calculates(calculator: Callable[..., int], arch: str) -> None:
    major, minor = divmod(int(arch.removeprefix("sm_")), 10)
    limits, rng = gpu_limits(arch), random.Random(arch)
    for _ in range(300):
        threads, registers = 32 * rng.randint(1, 16), rng.randint(16, 255)
        shared = rng.choice([0, rng.randint(0, limits.block_shared)])
        sizes = (limits.warps, limits.shared, limits.block_shared)
        wanted = calculator(major, minor, *sizes, threads, registers, shared)
        assert wanted >= 0
        found = occupancy(arch, threads=threads, registers=registers, shared=shared)
        assert found.blocks == wanted, (threads, registers, shared, found)
