"""Kernels over caches whose scales take one byte: the same calls and checks as for two."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_driver import Sequences, compile_kernels
from cuda_driver import CudaSequences, cuda_kernels, cuda_layout, probe, run_probe
from ptx_compile import needs_nvcc
from ptx_kernel import interpreted

from tqc.codec import short_scale
from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_builder import blocks, store, threads
from tqc.schedules.cuda_config import DecodeConfig, PrefillConfig
from tqc.schedules.cuda_encode import short_code, short_value
from tqc.schedules.cuda_ptx import load_global, registers
from tqc.schedules.cuda_sides import halves_of_short

STEPS = [("prefill", [200, 97]), ("decode", [1, 1]), ("prefill", [30, 70]), ("decode", [1, 0]), ("decode", [1, 1])]


@pytest.mark.parametrize(
    ("isa", "layout"),
    [
        ("avx512", CacheLayout(4, 2, 64, "tq4-s8", "tq3-s8", recent=32)),
        ("avx2", CacheLayout(3, 1, 80, "16@5/64@2-s8", "tq2-s8", recent=0, page=32)),
        ("portable", CacheLayout(2, 1, 64, "tqp3-s8", "tq2.5-s8", recent=16, page=16)),
        ("avx512", CacheLayout(2, 2, 64, "qjl2o-s8", "16@4/48@0-s8", recent=0, sinks=0)),
    ],
)
def test_on_the_cpu(isa: str, layout: CacheLayout) -> None:
    kernels = compile_kernels(layout, isa, ("append", "decode", "prefill"), softmax_scale=0.1)
    run = Sequences(layout, kernels, batch=2, capacity=512, scale=0.1)
    for kernel, new_len in STEPS:
        run.step(new_len, kernel)
    run.check()


@pytest.mark.parametrize(
    ("arch", "schemes", "configs"),
    [
        ("sm_80", ("tq4-s8", "tq2-s8"), {}),
        ("sm_90", ("16@5/16@3/32@2-s8", "tq3-s8"), {"decode": DecodeConfig(warps=2)}),
        ("sm_80", ("tq3-s8", "tqp3-s8"), {"decode": DecodeConfig(warps=2, keys="int8")}),
        ("sm_90a", ("tq4-s8", "16@4/48@2-s8"), {"prefill": PrefillConfig(4, products="wgmma")}),
    ],
)
def test_on_cuda(arch: str, schemes: tuple[str, str], configs: dict) -> None:
    needs_nvcc()
    layout = cuda_layout(4, 2, 64, *schemes, recent=32)
    kernels = interpreted(cuda_kernels(layout, arch=arch, configs=configs, softmax_scale=0.1), arch)
    run = CudaSequences(layout, kernels, batch=2, capacity=512, scale=0.1)
    run.tolerance *= 5 if "decode" in configs and configs["decode"].keys == "int8" else 1  # queries of 8 bits
    for kernel, new_len in STEPS:
        run.step(new_len, kernel)
    run.check()


VALUES = np.concatenate(
    [
        np.array([0, -0.0, -1, np.nan, np.inf, 1e-9, 0.0077, 0.0079, 0.0156, 0.017, 959, 975, 977, 1e5], np.float32),
        np.exp(np.random.default_rng(0).uniform(-5, 7, 498)).astype(np.float32),
    ]
)


def test_cuda_rounds_as_the_codec_does() -> None:
    codes, back = np.zeros(512, np.int32), np.zeros(512, np.float32)

    def emit(values, codes, back) -> None:
        with blocks(1, 1, 1), threads(512) as thread:
            code = short_code(values[thread])
            store(codes, code, thread)
            store(back, short_value(code), thread)

    run_probe(emit, VALUES, codes, back)
    np.testing.assert_array_equal(codes, short_scale.encode(VALUES))
    np.testing.assert_array_equal(back, short_scale.decode(codes.astype(np.uint8)).astype(np.float32))


def test_cuda_makes_float16_of_every_code() -> None:
    needs_nvcc()
    codes, found = np.arange(256, dtype=np.uint8).view(np.uint32), np.zeros((32, 4), np.uint32)

    def emit(codes, found) -> None:
        with blocks(1, 1, 1), threads(32) as lane:
            pair = registers("pair", 2, "uint32")
            load_global([pair[0], pair[1]], codes, lane * 2)
            words = halves_of_short(pair)
            for n in range(4):
                store(found, words[n], lane, n)

    interpreted({"halves": probe(emit, codes, found)}, "sm_80", unwritten=["a1"])["halves"](codes, found)
    halves = found.view(np.float16).reshape(-1)
    np.testing.assert_array_equal(halves, short_scale.decode(np.arange(256, dtype=np.uint8)))


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_the_cpu_rounds_as_the_codec_does(isa: str) -> None:
    """Through a whole append of vectors with these norms: one scale, that of a zero dimension aside."""
    layout = CacheLayout(1, 1, 64, "tq4-s8", "fp32", sinks=0, recent=0, page=64)
    run = Sequences(layout, compile_kernels(layout, isa, ("append",)), batch=1, capacity=512)
    k, v = run.vectors(1, 512), run.vectors(1, 512)
    k *= (np.abs(np.nan_to_num(VALUES, nan=1, posinf=1)) / np.linalg.norm(k[0, 0], axis=-1))[None, None, :, None]
    k[0, 0, 2], k[0, 0, 3], k[0, 0, 4] = 1, np.nan, np.inf
    run.extend([512], k, v)
    run.check()
    assert {0, short_scale.NAN} <= set(run.state["k_scale"].reshape(-1).tolist())
