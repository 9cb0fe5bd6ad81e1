from __future__ import annotations

import pytest

from tqc.codegen.cuda_toolchain import compile_device_code, find_nvcc, find_nvdisasm
from tqc.codegen.resources import KernelResources, parse_resources, resources_of
from tqc.codegen.sass import disassemble
from tqc.errors import TargetError

SAID = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'append_kernel' for 'sm_80'
ptxas info    : Function properties for append_kernel
    32 bytes stack frame, 28 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 72 registers, used 1 barriers, 32 bytes cumulative stack size, 2432 bytes smem, 464 bytes \
cmem[0], 16 bytes cmem[2]
ptxas info    : Compile time = 369.379 ms
ptxas info    : Compiling entry function 'merge_kernel' for 'sm_90'
ptxas info    : Function properties for merge_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""

# 64 numbers that are all needed at once, with 32 registers to hold them
SPILLING = """
extern "C" __global__ void __maxnreg__(32) many(float* x) {
    float a[64];
    #pragma unroll
    for (int i = 0; i < 64; ++i) a[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = a[63 - i] * a[(i * 7) % 64];
}
extern "C" __global__ void few(float* x) { x[threadIdx.x] = 1.0f; }
"""


@pytest.fixture
def nvcc():
    try:
        find_nvdisasm()
        return find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))


def test_what_ptxas_says() -> None:
    found = parse_resources(SAID)
    assert found == {
        "append_kernel": KernelResources("append_kernel", "sm_80", 72, 28, 20, 32, 2432, 480, 1),
        "merge_kernel": KernelResources("merge_kernel", "sm_90", 32, 0, 0, 0, 0, 0, 0),
    }
    assert found["append_kernel"].spills
    assert not found["merge_kernel"].spills
    assert found["append_kernel"].occupancy(128).blocks == 7
    assert found["append_kernel"].occupancy(128, dynamic_shared=80 * 1024).blocks == 1


@pytest.mark.parametrize("said", ["", "nothing of use", SAID.replace("Used 72", "Took 72")])
def test_what_is_not_understood_is_refused(said: str) -> None:
    with pytest.raises(TargetError, match="ptxas"):
        parse_resources(said)


def test_a_kernel_that_spills(nvcc) -> None:
    found = resources_of(SPILLING, "sm_90", nvcc)
    assert found["many"].spills
    assert found["many"].registers == 32
    assert found["many"].stack
    assert not found["few"].spills


def test_asking_for_resources_does_not_change_the_instructions(nvcc) -> None:
    silent, verbose = (compile_device_code(SPILLING, "sm_80", form="cubin", verbose=v) for v in (False, True))
    assert "spill stores" in verbose.said
    assert "spill stores" not in silent.said
    assert disassemble(verbose.code) == disassemble(silent.code)
