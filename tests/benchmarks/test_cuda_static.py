from __future__ import annotations

import pytest
from ptx_compile import needs_nvcc


def test_what_takes_longest_bounds_a_loop():
    from cuda_peaks import Gpu, roofline

    gpu = Gpu("a GPU", multiprocessors=10, clock=1e9, bandwidth=1e12, source="")
    assert gpu.issue == 40e9
    loop = {"alu": 100, "fma": 300}
    wide = roofline(gpu, instructions=loop, tokens=10, bytes_per_token=2000)
    assert (wide.memory, wide.issue, wide.alu) == pytest.approx((2000, 1000, 500))
    assert (wide.bound, wide.share) == ("memory", 1)
    narrow = roofline(gpu, instructions=loop, tokens=10, bytes_per_token=250)
    assert (narrow.bound, narrow.share) == ("issue", 0.25)
    assert roofline(gpu, instructions={"alu": 100}, tokens=10, bytes_per_token=250).bound == "alu"


def test_the_architectures_have_limits_and_a_gpu():
    from cuda_peaks import GPUS

    from tqc.gpu_limits import gpu_limits

    assert all(gpu.multiprocessors <= gpu_limits(arch).multiprocessors for arch, gpu in GPUS.items())


def test_a_report_of_one_layout():
    needs_nvcc()
    from cuda_static import LAUNCHES, examine, tables

    from tqc.codegen.cuda_toolchain import find_nvdisasm
    from tqc.errors import TargetError

    try:
        find_nvdisasm()
    except TargetError as error:
        pytest.skip(error.what)
    found = examine("9:3:64-tq4", "sm_90a")
    assert [row["kernel"] for row in found["kernels"]] == list(LAUNCHES.values())
    assert all(row["blocks"] >= 1 and row["spill_bytes"] == 0 for row in found["kernels"])
    loop = found["decode"]
    assert loop["instructions"]["tensor"] == 32  # of 16 × 8 × 16: keys and values of 64 tokens by 64 dims
    assert loop["bytes_per_token"] == 2 * (32 + 2)
    data = {"kernels": found["kernels"], "decode": [loop], "gpus": {}, "nvcc": "13.0"}
    text = tables(data)
    assert "No kernel spills registers" in text
    spilled = [row | {"spill_bytes": 8} for row in found["kernels"][:1]]
    assert "decode of 9:3:64-tq4 on sm_90a, 8 B; none of it in decode's loop" in tables(data | {"kernels": spilled})
