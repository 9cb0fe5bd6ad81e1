"""What candidates are checked against, on CUDA kernels that the PTX interpreter runs: the GPU's kernels must pass."""

from __future__ import annotations

import pytest
import tvm
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.bench.filled_cache import repeated
from tqc.bench.kernels import layout_of
from tqc.bench.problem import Geometry
from tqc.bench.timing import Maker, Turns, run_checked
from tqc.codegen.target import Target
from tqc.compiler.configurations import default_of
from tqc.records.record import Cell
from tqc.tune.candidates import CASES, Device
from tqc.tune.kernels import kernel_of

HOST = Device(
    upload=tvm.runtime.tensor,
    upload_batch=lambda array, batch: tvm.runtime.tensor(repeated(array, batch)),
    copies=lambda _bytes: 1,
    tolerance=1e-2,
)


@pytest.mark.parametrize("schedule", ["decode", "prefill"])
def test_cuda_kernels_give_what_is_expected_of_them(schedule):
    needs_nvcc()
    target = Target("cuda", "sm_80")
    layout = layout_of("k4v3", Geometry(4, 2, 64), target)
    made = kernel_of(target, schedule, layout, default_of(target, schedule, layout))
    cell = Cell(device="none", batch=2, context=400, tokens=5 if schedule == "prefill" else 1)
    case = CASES[schedule](layout, cell, made.dtype, made.turns, HOST)
    run = interpreted({schedule: made.function}, target.arch)[schedule]
    (found,) = run_checked([Maker(schedule, "ours", 0, lambda: case.candidate(run))], Turns(0, 0, lambda call: 0.0))
    assert found.fault == ""
    assert found.error < 5e-3
