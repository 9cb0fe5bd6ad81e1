"""CUDA's own functions, which nvcc makes of many instructions, against NumPy: a wrong instruction shows in some."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from ptx_compile import module_of, needs_nvcc
from ptx_run import Unwritten, run

RNG = np.random.default_rng(15)
HEAD = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#define EACH(NAME, T, R, EXPRESSION) \\
  extern "C" __global__ void NAME(const T* a, const T* b, const T* c, R* y) { \\
    int i = blockIdx.x * blockDim.x + threadIdx.x; \\
    T x = a[i], z = b[i], w = c[i]; (void)z; (void)w; \\
    y[i] = EXPRESSION; \\
  }
"""
FLOATS = {
    "expf(x)": np.exp,
    "exp2f(x)": np.exp2,
    "exp10f(x)": lambda x: 10.0**x,
    "expm1f(x)": np.expm1,
    "logf(fabsf(x))": lambda x: np.log(abs(x)),
    "log2f(fabsf(x))": lambda x: np.log2(abs(x)),
    "log1pf(fabsf(x))": lambda x: np.log1p(abs(x)),
    "sinf(x)": np.sin,
    "cosf(x * 1e5f)": lambda x: np.cos((x.astype(np.float32) * np.float32(1e5)).astype(float)),
    "tanf(x)": np.tan,
    "tanhf(x)": np.tanh,
    "atan2f(x, z)": np.arctan2,
    "asinf(0.9f * tanhf(x)) + acosf(0.5f * sinf(z))": lambda x, z: (
        np.arcsin(0.9 * np.tanh(x)) + np.arccos(0.5 * np.sin(z))
    ),
    "erff(x)": lambda x: np.vectorize(math.erf)(x),
    "powf(fabsf(x), z)": lambda x, z: abs(x) ** z,
    "cbrtf(x)": np.cbrt,
    "hypotf(x, z)": np.hypot,
    "fmodf(x, z)": np.fmod,
    "rsqrtf(fabsf(x))": lambda x: 1 / np.sqrt(abs(x)),
    "x / z": lambda x, z: x / z,
    "fmaf(x, z, w)": lambda x, z, w: x * z + w,
    "fminf(x, z) + fmaxf(z, w)": lambda x, z, w: np.minimum(x, z) + np.maximum(z, w),
    "rintf(x) + floorf(z) * truncf(w)": lambda x, z, w: np.rint(x) + np.floor(z) * np.trunc(w),
    "ldexpf(x, (int)z)": lambda x, z: np.ldexp(x, np.trunc(z).astype(int)),
    "__expf(x) + __logf(fabsf(z))": lambda x, z: np.exp(x) + np.log(abs(z)),
    "__fdividef(x, z)": lambda x, z: x / z,
    "(float)sqrt((double)x * x + (double)z * z)": np.hypot,
    "(float)exp((double)x)": np.exp,
    "(float)(log((double)fabsf(x)) / z)": lambda x, z: np.log(abs(x)) / z,
    "(float)__double2int_rn((double)x * 1000)": lambda x: np.rint(x * 1000),
}


def source(kind: str, result: str, expressions: list[str]) -> str:
    return HEAD + "\n".join(f"EACH(f{i}, {kind}, {result}, ({text}))" for i, text in enumerate(expressions))


def values(count: int = 256) -> list[np.ndarray]:
    return [(RNG.standard_normal(count) * 3).astype(np.float32) for _ in range(3)]


def each(module, number: int, arrays: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    y = np.zeros(len(arrays[0]), dtype)
    run(module, len(y) // 64, 64, *arrays, Unwritten(y), kernel=f"f{number}")
    return y


def test_functions_of_float32() -> None:
    needs_nvcc()
    module = module_of(source("float", "float", list(FLOATS)), "sm_80")
    arrays = values()
    for number, (text, function) in enumerate(FLOATS.items()):
        found = each(module, number, arrays, np.dtype(np.float32))
        wide = [array.astype(np.float64) for array in arrays]
        count = function.__code__.co_argcount if hasattr(function, "__code__") else function.nin
        wanted = function(*wide[:count])
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7, err_msg=text)


INTEGERS = {
    "__popc(x) + __clz(z) * __ffs(w)": lambda x, z, w: x.bit_count() + (32 - z.bit_length()) * ((w & -w).bit_length()),
    "__brev(x) ^ __byte_perm(x, z, w & 0x7777)": None,
    "__funnelshift_l(x, z, w)": lambda x, z, w: ((z << 32 | x) << (w & 31)) >> 32,
    "__umulhi(x, z) + x * w": lambda x, z, w: (x * z >> 32) + x * w,
    "(unsigned)((unsigned long long)x * z % (w | 1))": lambda x, z, w: x * z % (w | 1),
    "(unsigned)((long long)(int)x * (int)z / ((int)w | 1))": None,
    "(x / (z | 1)) + (x % (w | 1))": lambda x, z, w: x // (z | 1) + x % (w | 1),
    "__dp4a(x, z, w)": lambda x, z, w: w + sum((x >> s & 255) * (z >> s & 255) for s in (0, 8, 16, 24)),
    "__vadd4(x, z)": lambda x, z, w: sum((((x >> s) + (z >> s)) & 255) << s for s in (0, 8, 16, 24)),
    "__vcmpgtu4(x, z)": lambda x, z, w: sum(255 * ((x >> s & 255) > (z >> s & 255)) << s for s in (0, 8, 16, 24)),
    "__vminu4(x, z)": lambda x, z, w: sum(min(x >> s & 255, z >> s & 255) << s for s in (0, 8, 16, 24)),
    "__vavgu4(x, z)": lambda x, z, w: sum(((x >> s & 255) + (z >> s & 255) + 1 >> 1) << s for s in (0, 8, 16, 24)),
    "__usad(x, z, w)": lambda x, z, w: abs(x - z) + w,
    "min(x, z) - max(z, w)": lambda x, z, w: min(x, z) - max(z, w),
    "x << (z & 31) >> (w & 31)": lambda x, z, w: (x << (z & 31) & 0xFFFFFFFF) >> (w & 31),
    "__float_as_uint(__uint2float_rn(x))": lambda x, z, w: int(np.float32(x).view(np.uint32)),
    "(unsigned)__popcll((unsigned long long)x << 32 | z)": lambda x, z, w: x.bit_count() + z.bit_count(),
    "(unsigned)((((unsigned long long)x << 32 | z) >> (w & 63)))": lambda x, z, w: (x << 32 | z) >> (w & 63),
    "(x & z) | (~x & w)": lambda x, z, w: (x & z) | (~x & w),
    "(x ^ z ^ w) + ((x & z) | (x & w) | (z & w))": lambda x, z, w: (x ^ z ^ w) + ((x & z) | (x & w) | (z & w)),
}


def test_functions_of_integers() -> None:
    needs_nvcc()
    module = module_of(source("unsigned", "unsigned", list(INTEGERS)), "sm_90")
    arrays = [RNG.integers(0, 2**32, 256).astype(np.uint32) for _ in range(3)]
    for number, (text, function) in enumerate(INTEGERS.items()):
        found = each(module, number, arrays, np.dtype(np.uint32))
        for i, numbers in enumerate(zip(*[array.tolist() for array in arrays], strict=True)):
            if function is not None:
                assert int(found[i]) == function(*numbers) % 2**32, (text, numbers)


HALVES = {
    "x + z * w": lambda x, z, w: x + z * w,
    "hexp2(x)": lambda x, z, w: np.exp2(x),
    "hsqrt(__habs(x))": lambda x, z, w: np.sqrt(abs(x)),
    "hrcp(x)": lambda x, z, w: 1 / x,
    "htanh(x)": lambda x, z, w: np.tanh(x),
    "x / z": lambda x, z, w: x / z,
    "__hfma(x, z, w)": lambda x, z, w: x * z + w,
    "__hmax(x, z) - __hmin(z, w)": lambda x, z, w: np.maximum(x, z) - np.minimum(z, w),
    "hfloor(x) + hrint(z)": lambda x, z, w: np.floor(x) + np.rint(z),
    "x > z ? x : w": lambda x, z, w: np.where(x > z, x, w),
    "(T)(int)(x * (T)8)": lambda x, z, w: np.trunc(x * 8),
    "__hadd2(V(x, z), V(z, w)).y": lambda x, z, w: z + w,
    "__hfma2(V(x, z), V(w, x), V(z, z)).x": lambda x, z, w: x * w + z,
    "__hmul2(V(x, z), V(w, x)).x + h2exp2(V(x, z)).y": lambda x, z, w: x * w + np.exp2(z),
    "__low2half(__hmax2(V(x, z), V(w, x)))": lambda x, z, w: np.maximum(x, w),
}


@pytest.mark.parametrize(("name", "pair"), [("half", "half2"), ("__nv_bfloat16", "__nv_bfloat162")])
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_functions_of_halves(name: str, pair: str, arch: str) -> None:
    needs_nvcc()
    dtype = np.dtype(np.float16 if name == "half" else ml_dtypes.bfloat16)
    expressions = [text.replace("(T)", f"({name})").replace("V(", f"{pair}(") for text in HALVES]
    if name != "half":
        expressions = [text.replace("__low2half", "__low2bfloat16") for text in expressions]
    module = module_of(source(name, name, expressions), arch)
    arrays = [np.clip(array, -8, 8).astype(dtype) for array in values()]
    wide = [array.astype(np.float64) for array in arrays]
    for number, (text, function) in enumerate(HALVES.items()):
        found = each(module, number, arrays, dtype).astype(np.float64)
        wanted = function(*wide)
        unit = 2.0**-10 if name == "half" else 2.0**-7
        scale = np.maximum(abs(wanted), sum(abs(x) for x in wide[1:]) * abs(wide[0]).max() * (np.abs(wanted) > 0) * 0.1)
        assert (abs(found - wanted) <= 2 * unit * np.maximum(scale, 1)).all(), (text, abs(found - wanted).max())


BYTES = """
extern "C" __global__ void codes(const float* x, unsigned char* y, float* back) {
  int i = threadIdx.x;
  __nv_fp8_e4m3 a = __nv_fp8_e4m3(x[i]);
  __nv_fp8_e5m2 b = __nv_fp8_e5m2(x[i]);
  y[2 * i] = a.__x; y[2 * i + 1] = b.__x;
  back[2 * i] = (float)a; back[2 * i + 1] = (float)b;
}
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_floats_of_eight_bits(arch: str) -> None:
    """On sm_80 by integers, on sm_90 by an instruction."""
    needs_nvcc()
    x = (RNG.standard_normal(128) * 2.0 ** RNG.integers(-12, 10, 128)).astype(np.float32)
    y, back = np.zeros((128, 2), np.uint8), np.zeros((128, 2), np.float32)
    run(module_of(HEAD + BYTES, arch), 1, 128, x, Unwritten(y), Unwritten(back), kernel="codes")
    for i, (dtype, most) in enumerate(((ml_dtypes.float8_e4m3fn, 448), (ml_dtypes.float8_e5m2, 57344))):
        wanted = np.clip(x, -most, most).astype(dtype)
        np.testing.assert_array_equal(y[:, i], wanted.view(np.uint8))
        np.testing.assert_array_equal(back[:, i], wanted.astype(np.float32))


TOGETHER = """
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda/barrier>
#include <cuda/pipeline>
namespace cg = cooperative_groups;
extern "C" __global__ void reductions(const float* x, float* y, unsigned* count) {
  auto block = cg::this_thread_block();
  auto warp = cg::tiled_partition<32>(block);
  auto quad = cg::tiled_partition<4>(block);
  float value = x[blockIdx.x * 128 + threadIdx.x];
  float sum = cg::reduce(warp, value, cg::plus<float>());
  float most = cg::reduce(quad, value, cg::greater<float>());
  for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  unsigned positive = __ballot_sync(0xffffffffu, most > 0);
  if (threadIdx.x % 32 == 0) atomicAdd(y, sum - value);
  if (threadIdx.x % 32 == 5) atomicAdd(count, __popc(positive));
  atomicMax((int*)(y + 1), __float_as_int(fabsf(most)));
}
extern "C" __global__ void pipelined(const float4* x, float4* y) {
  __shared__ cuda::barrier<cuda::thread_scope_block> ready;
  __shared__ alignas(16) float4 stage[128];
  auto block = cg::this_thread_block();
  if (block.thread_rank() == 0) init(&ready, block.size());
  block.sync();
  for (int round = 0; round < 3; ++round) {
    cuda::memcpy_async(stage + threadIdx.x, x + round * 128 + threadIdx.x, cuda::aligned_size_t<16>(16), ready);
    ready.arrive_and_wait();
    y[round * 128 + threadIdx.x] = stage[127 - threadIdx.x];
    block.sync();
  }
}
"""


def test_groups_and_barriers_of_cuda() -> None:
    needs_nvcc()
    module = module_of(TOGETHER, "sm_90")
    x = RNG.standard_normal(3 * 128).astype(np.float32)
    y, count = np.zeros(2, np.float32), np.zeros(1, np.uint32)
    run(module, 3, 128, x, y, count, kernel="reductions")
    assert abs(y[0]) < 1e-4
    quads = x.reshape(-1, 4).max(axis=1)
    assert y[1] == abs(quads).max()
    assert count[0] == 4 * (quads > 0).sum()
    x, y = RNG.standard_normal((3, 128, 4)).astype(np.float32), np.zeros((3, 128, 4), np.float32)
    run(module, 1, 128, x, Unwritten(y), kernel="pipelined")
    np.testing.assert_array_equal(y, x[:, ::-1])
