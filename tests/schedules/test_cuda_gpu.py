"""The kernels on a real GPU: against the NumPy model, and against the CPU kernels fed with the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tvm
from cpu_driver import Sequences, close, compile_kernels
from cuda_driver import CudaSequences, cuda_kernels, cuda_layout

from tqc.codec.layout import CacheLayout, ring_pages
from tqc.codegen.cuda_build import cuda_build_environment, load_cuda_runtime
from tqc.codegen.target import Target, cuda_arch
from tqc.errors import TargetError
from tqc.schedules.cuda_config import SCHEDULES

pytestmark = pytest.mark.gpu

LAYOUTS = {
    "tq4": cuda_layout(8, 2, 128),
    "k4v3": cuda_layout(32, 8, 128, "tq4", "tq3"),
    "tq2-group16": cuda_layout(16, 1, 256, "tq2", "tq2", sinks=0, recent=0),
    "tq5-fp16": cuda_layout(6, 2, 80, "tq5", "fp16", recent=32),
    "tq8-tq1": cuda_layout(4, 4, 64, "tq8", "tq1", recent=64),
    "qjl3-tqp3": cuda_layout(4, 2, 128, "qjl3", "tqp3", recent=0),
    "tqp4-tq2.5": cuda_layout(6, 2, 80, "tqp4", "tq2.5", recent=32),
    "qjl1o-tqp2": cuda_layout(2, 1, 256, "qjl1o", "tqp2", recent=0),
    "bands": cuda_layout(4, 2, 64, "16@5+16@3+32@2", "16@4+32@2+16@0", recent=64),
    "polar": cuda_layout(8, 2, 128, "polar", "polar-plain", recent=64),
    "bf16-tq3.5": cuda_layout(8, 2, 64, "bf16", "tq3.5", recent=32),
}
STEPS = [
    ("prefill", [300, 210]),
    ("decode", [1, 1]),
    ("prefill", [30, 70]),
    ("decode", [1, 0]),
    *[("decode", [1, 1])] * 70,
]


@pytest.fixture(scope="module")
def gpu() -> tuple[tvm.runtime.Device, Target]:
    try:
        load_cuda_runtime()
    except TargetError as error:
        pytest.skip(str(error))
    device = tvm.cuda(0)
    if not device.exist:
        pytest.skip("no GPU")
    return device, Target("cuda", cuda_arch(*map(int, device.compute_version.split("."))))


def on_gpu(layout: CacheLayout, target: Target, **options) -> dict[str, Callable]:
    kernels = cuda_kernels(layout, arch=target.arch, **options)
    functions = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    with cuda_build_environment(target):
        module = tvm.compile(tvm.IRModule(functions), target=target.tvm_target())
    return {name: module[name] for name in functions}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("options", [{}, {"softcap": 20.0, "window": 190}])
def test_calls_follow_the_model(gpu, name, dtype, options):
    (device, target), layout = gpu, LAYOUTS[name]
    scale = layout.head_dim**-0.5
    kernels = on_gpu(layout, target, softmax_scale=scale, dtype=dtype, **options)
    run = CudaSequences(layout, kernels, batch=2, capacity=512, dtype=dtype, device=device, scale=scale, **options)
    for kernel, new_len in STEPS:
        run.step(new_len, kernel)
    run.check()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(("schedule", "field", "value"), [("decode", "keys", "int8"), ("prefill", "products", "wgmma")])
def test_other_readers_follow_the_model(gpu, name, schedule, field, value):
    """What a configuration may multiply with, where the layout and the GPU have it."""
    (device, target), layout = gpu, LAYOUTS[name]
    space = SCHEDULES[schedule].space(layout, target.arch)
    config = next((config for config in space if getattr(config, field) == value), None)
    if config is None:
        pytest.skip(f"no {field} = {value} for {name} on {target.arch}")
    scale = layout.head_dim**-0.5
    kernels = on_gpu(layout, target, softmax_scale=scale, configs={schedule: config})
    run = CudaSequences(layout, kernels, batch=2, capacity=512, device=device, scale=scale)
    for kernel, new_len in STEPS[:6]:
        run.step(new_len, kernel)
    run.check()


@pytest.mark.parametrize("recent", [0, 48])
def test_a_ring_of_pages_and_sink_logits(gpu, recent):
    device, target = gpu
    layout = cuda_layout(8, 2, 64, "tq4", "tq3", recent=recent, ring=ring_pages(160, recent, 64))
    logits = np.linspace(-3, 3, 8, dtype=np.float32)
    kernels = on_gpu(layout, target, softmax_scale=0.2, window=160, sink_logits=True)
    options = {"scale": 0.2, "window": 160, "sink_logits": logits}
    run = CudaSequences(layout, kernels, batch=2, capacity=512, device=device, **options)
    for kernel, new_len in STEPS:
        run.step(new_len, kernel)
    run.check()


@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_are_those_of_the_cpu_kernels(gpu, name):
    (device, target), layout = gpu, LAYOUTS[name]
    scale = layout.head_dim**-0.5
    options = {"batch": 2, "capacity": 512, "scale": scale}
    other = replace(layout, order="lanes", exact_dtype="float32")
    on_cpu = compile_kernels(other, "portable", ("append", "decode", "prefill"), softmax_scale=scale)
    cuda = CudaSequences(layout, on_gpu(layout, target, softmax_scale=scale), device=device, **options)
    cpu = RoundedSequences(other, on_cpu, **options)
    for kernel, new_len in STEPS[:6]:
        close(cuda.step(new_len, kernel), cpu.step(new_len, kernel), tolerance=2e-2)


class RoundedSequences(Sequences):
    """Sequences with the vectors that a float16 kernel gets."""

    def vectors(self, heads: int, tokens: int, *rows: int) -> np.ndarray:
        return super().vectors(heads, tokens, *rows).astype(np.float16).astype(np.float32)


def test_a_second_run_gives_the_same_bytes(gpu):
    (device, target), layout = gpu, LAYOUTS["tq4"]
    kernels = on_gpu(layout, target, softmax_scale=0.1)
    results = []
    for _ in range(2):
        run = CudaSequences(layout, kernels, batch=2, capacity=512, device=device, scale=0.1)
        results.append([run.step(new_len, kernel) for kernel, new_len in STEPS[:4]] + list(run.state.values()))
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
