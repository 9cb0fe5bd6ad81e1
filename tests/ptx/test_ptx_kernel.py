"""The generated kernels as the PTX that nvcc makes of them: against the NumPy model of the cache."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import tvm
from cuda_driver import CudaSequences, cuda_kernels, cuda_layout
from ptx_compile import module_of, needs_nvcc
from ptx_error import PtxError
from ptx_kernel import PtxKernel, as_array, interpret, interpreted
from ptx_run import Unwritten, run
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from tqc.codec.layout import ring_pages
from tqc.schedules.cuda_builder import argument, blocks, build_kernel, dimension, f32, named, phase, store

LAYOUTS = {
    "tq4-tq3": (cuda_layout(4, 2, 64, "tq4", "tq3"), {}),
    "float32": (cuda_layout(4, 2, 64, "tq4", "tq3"), {"dtype": "float32"}),
    "sketches": (cuda_layout(4, 2, 80, "qjl2o", "tqp3", recent=32), {}),
    "polar": (cuda_layout(2, 1, 128, "polar", "tq2.5", recent=64), {}),
    "ring": (cuda_layout(4, 2, 64, "tq5", "bf16", recent=20, ring=ring_pages(90, 20, 64)), {"window": 90}),
}


CASES = [*((name, "sm_80") for name in LAYOUTS), *((name, "sm_90") for name in ("tq4-tq3", "sketches", "polar"))]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def sequences(request) -> CudaSequences:
    needs_nvcc()
    name, arch = request.param
    layout, options = LAYOUTS[name]
    scale = layout.head_dim**-0.5
    kernels = interpreted(cuda_kernels(layout, softmax_scale=scale, arch=arch, **options), arch)
    return CudaSequences(layout, kernels, batch=3, capacity=400, scale=scale, **options)


def test_calls_follow_the_model(sequences: CudaSequences) -> None:
    """Chunks and single tokens of three sequences; some get nothing, some leave the exact window."""
    for new in ([5, 0, 90], [110, 3, 0], [40, 100, 1]):
        sequences.step(new, "prefill")
        sequences.step([1, 1, int(new[2] > 0)], "decode")
    sequences.check()
    assert [report.kernel for report in sequences.kernels["decode"].reports] == ["decode_kernel", "decode_kernel_1"]


def probe(emit: Callable[..., None], *specs: tuple[tuple, str]) -> PrimFunc:
    """A scheduled PrimFunc whose parameters a0, a1, … have these shapes and types, with `emit` as its body."""
    return build_kernel(
        "probe", lambda: emit(*(argument(f"a{i}", shape, dtype) for i, (shape, dtype) in enumerate(specs)))
    )


def twice_through_a_workspace(x, y) -> None:
    """Two launches with a workspace and dynamic shared memory between them: y = 2 · x, backwards in pieces of 32."""
    rows = x.shape[0]
    kept = T.sblock_alloc_buffer((rows, 32), "float32")
    with blocks(rows, 1, 1) as (row, _, _), phase(32, 32) as lane:
        store(kept, x[row, lane] + x[row, lane], row, lane)
    with blocks(rows, 1, 1) as (row, _, _):
        tile = T.sblock_alloc_buffer((32,), "float32", scope="shared.dyn")
        with phase(32, 32) as lane:
            store(tile, kept[row, lane], lane)
        with phase(32, 32) as lane:
            store(y, tile[31 - lane], row, lane)


@pytest.fixture(scope="module")
def twice() -> PtxKernel:
    needs_nvcc()
    shape = (dimension("rows"), 32)
    return interpret(
        probe(twice_through_a_workspace, (shape, "float32"), (shape, "float32")), "sm_80", unwritten=["a1"]
    )


def test_workspaces_dynamic_shared_memory_and_grids_from_shapes(twice: PtxKernel) -> None:
    for rows in (1, 5):
        x, y = np.arange(32.0 * rows, dtype=np.float32).reshape(rows, 32), np.zeros((rows, 32), np.float32)
        twice(x, y)
        np.testing.assert_array_equal(y, 2 * x[:, ::-1])
    assert [report.counts["ret"] for report in twice.reports] == [5, 5]


def test_tensors_of_tvm_are_changed_in_place(twice: PtxKernel) -> None:
    x = np.arange(64.0, dtype=np.float32).reshape(2, 32)
    tensors = [tvm.runtime.tensor(x), tvm.runtime.tensor(np.zeros_like(x))]
    twice(*tensors)
    np.testing.assert_array_equal(tensors[1].numpy(), 2 * x[:, ::-1])
    wide = tvm.runtime.tensor(x.astype(ml_dtypes.bfloat16))
    assert as_array(wide).dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 32)), np.zeros((2, 32), np.float32), "a0 is float32"),
        (np.zeros((2, 16), np.float32), np.zeros((2, 32), np.float32), "a0 has the shape"),
        (np.zeros((2, 32), np.float32), np.zeros((3, 32), np.float32), "a1 has the shape"),
        (np.zeros(64, np.float32), np.zeros((2, 32), np.float32), "a0 is float32 of 2 dimensions"),
        (np.zeros((0, 32), np.float32), np.zeros((0, 32), np.float32), "at least 1 of each"),
        (np.zeros((4, 32), np.float32)[::2], np.zeros((2, 32), np.float32), "only contiguous"),
    ],
)
def test_arguments_have_to_be_the_function_s(twice: PtxKernel, x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(PtxError, match=message):
        twice(x, y)


def test_a_workspace_that_is_read_before_it_is_written() -> None:
    needs_nvcc()

    def emit(y) -> None:
        kept = named("kept", T.sblock_alloc_buffer((64,), "float32"))
        with blocks(1, 1, 1), phase(32, 32) as lane:
            store(kept, f32(1.0), lane)
        with blocks(1, 1, 1), phase(64, 64) as lane:
            store(y, kept[lane], lane)

    kernel = interpret(probe(emit, ((64,), "float32")), "sm_90")
    with pytest.raises(PtxError, match=r"kernel_kernel_1: .*thread 32 .*reads byte 128 of kept.*nobody has written"):
        kernel(np.zeros(64, np.float32))


SUMS = """
extern "C" __global__ void __launch_bounds__(128) sums(const float* x, float* y, int rounds) {
  __shared__ float tile[128];
  __shared__ float total;
  float all = 0;
  for (int round = 0; round < rounds; ++round) {
    tile[threadIdx.x] = x[round * 128 + threadIdx.x];
    __syncthreads();
    for (int half = 64; half; half >>= 1) {
      if (threadIdx.x < half) tile[threadIdx.x] += tile[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) total = tile[0];
    __syncthreads();
    all += total;
  }
  y[threadIdx.x] = all;
}
"""


def test_every_barrier_that_is_left_out_is_found() -> None:
    """The last barrier of a round is needed for `total`; the others for `tile`."""
    needs_nvcc()
    x = np.random.default_rng(13).integers(-9, 9, 3 * 128).astype(np.float32)
    y = np.zeros(128, np.float32)
    run(module_of(SUMS, "sm_80"), 1, 128, x, Unwritten(y), 3)
    assert (y == x.sum()).all()
    pieces = SUMS.split("__syncthreads();")
    assert len(pieces) == 4
    for left_out in range(3):
        source = "".join(
            piece + ("__syncthreads();" if i < 3 and i != left_out else "") for i, piece in enumerate(pieces)
        )
        with pytest.raises(PtxError, match=r"without a barrier between|total.*nobody has written"):
            run(module_of(source, "sm_80"), 1, 128, x, Unwritten(y), 3)


def test_tensor_cores_from_cuda() -> None:
    """Inline assembly as kernels have it: copies, ldmatrix, mma, with shared memory as dynamic memory."""
    needs_nvcc()
    rng = np.random.default_rng(14)
    a, b = rng.standard_normal((16, 16)).astype(np.float16), rng.standard_normal((8, 16)).astype(np.float16)
    d = np.zeros((16, 8), np.float32)
    report = run(module_of(MATRICES, "sm_90"), 1, 32, a, b, Unwritten(d), dynamic=1024, profile=True)
    np.testing.assert_allclose(d, a.astype(np.float32) @ b.astype(np.float32).T, rtol=1e-5, atol=1e-5)
    assert report.count("mma.sync") == 1
    assert (report.reads("tile_product_param_0") == 1).all()
    forgotten = MATRICES.replace('asm volatile("cp.async.wait_group 0;");', "")
    with pytest.raises(PtxError, match="a copy is still under way"):
        run(module_of(forgotten, "sm_90"), 1, 32, a, b, Unwritten(d), dynamic=1024)


MATRICES = """
#include <cuda_fp16.h>
extern "C" __global__ void tile_product(const half* a, const half* b, float* d) {
  extern __shared__ __align__(16) unsigned char memory[];
  unsigned place = (unsigned)__cvta_generic_to_shared(memory);
  int lane = threadIdx.x;
  // Rows of 16 numbers at 48 bytes from each other.
  int row = lane / 2, part = lane % 2;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :: "r"(place + row * 48 + part * 16), "l"(a + row * 16 + part * 8));
  if (lane < 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(place + 768 + row * 32 + part * 16),
                 "l"(b + row * 16 + part * 8));
  asm volatile("cp.async.commit_group;");
  asm volatile("cp.async.wait_group 0;");
  __syncwarp();
  unsigned x[4], y[2];
  float c[4] = {};
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3]) : "r"(place + lane % 16 * 48 + lane / 16 * 16));
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(y[0]), "=r"(y[1]) : "r"(place + 768 + lane % 8 * 32 + lane / 8 % 2 * 16));
  asm volatile("{ .reg .b32 unused; mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3},"
               " {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}; }" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
  float* out = d + lane / 4 * 8 + lane % 4 * 2;
  out[0] = c[0]; out[1] = c[1]; out[64] = c[2]; out[65] = c[3];
}
"""
