"""Append, decode and prefill together, emulated on the CPU, against the NumPy model, over schemes and geometries."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_driver import CudaSequences, cuda_kernels, emulated

from tqc.codec.layout import CacheLayout
from tqc.schedules.cuda_config import CudaConfig

COVER = {
    "tq4-tq3": (CacheLayout(8, 2, 64, "tq4", "tq3", recent=32, page=16), {}),
    "tq5-tq1-group3-no-sinks-no-tail": (CacheLayout(6, 2, 80, "tq5", "tq1", sinks=0, recent=0, page=32), {}),
    "fp16-tq7-window-half": (
        CacheLayout(2, 2, 96, "fp16", "tq7", sinks=5, recent=64, exact_dtype="float16"),
        {"dtype": "float16", "window": 50},
    ),
    "tq8-tq2-group8-softcap": (CacheLayout(8, 1, 256, "tq8", "tq2", sinks=20, recent=0, page=16), {"softcap": 20.0}),
    "tq4-tq4-ring": (CacheLayout(4, 2, 64, "tq4", "tq4", recent=0, page=16, ring=3), {"window": 33}),
    "fp32-tq3-ring-behind-the-tail": (CacheLayout(4, 2, 64, "fp32", "tq3", recent=24, page=16, ring=1), {"window": 40}),
    "fp16-fp32-window-in-the-tail-half": (
        CacheLayout(2, 1, 64, "fp16", "fp32", recent=48, page=16, ring=1),
        {"dtype": "float16", "window": 20},
    ),
    "tq2-fp32-group4": (CacheLayout(8, 2, 128, "tq2", "fp32", recent=16, page=32), {"window": 33}),
    "tq6-tq4-64-threads": (
        CacheLayout(3, 1, 128, "tq6", "tq4", sinks=1, recent=32, page=16),
        {"config": CudaConfig(threads=64, splits=2, query_rows=3), "softcap": 30.0},
    ),
    "tq1-tq8-256-threads": (
        CacheLayout(2, 2, 64, "tq1", "tq8", sinks=16, recent=0, exact_dtype="float16"),
        {"config": CudaConfig(threads=256, splits=3, query_rows=8), "dtype": "float16"},
    ),
    "fp32-fp16-sink-logits": (
        CacheLayout(4, 1, 96, "fp32", "fp16", sinks=0, recent=48, page=48),
        {"sink_logits": np.array([1, -3, 9, -60], np.float32)},
    ),
    "bands-of-zero-bits-two-scales": (
        CacheLayout(4, 2, 64, "16@5+32@0+16@2", "tq2.5", recent=16, page=32),
        {"config": CudaConfig(threads=128, splits=3)},
    ),
    "sketches-behind-codes-window": (CacheLayout(4, 2, 80, "tqp4", "tqp2", recent=24, page=16, ring=2), {"window": 50}),
    "sketches-alone-zero-bits-of-values": (
        CacheLayout(2, 1, 128, "qjl2o", "16@0+96@3+16@1", sinks=0, recent=0, page=32),
        {"config": CudaConfig(threads=256, splits=3)},
    ),
    "polar-window-half": (
        CacheLayout(4, 2, 64, "polar", "polar-plain", recent=24, page=16, ring=2, exact_dtype="float16"),
        {"window": 50, "dtype": "float16"},
    ),
    "bf16": (CacheLayout(2, 1, 64, "bf16", "bf16", recent=16, page=16), {}),
}
STEPS = [
    ("prefill", [150, 90]),  # several pages at once
    ("decode", [1, 1]),
    ("prefill", [30, 70]),  # cached and fresh tokens
    ("decode", [1, 0]),  # a sequence that pauses
    ("prefill", [0, 3]),
    *[("decode", [1, 1])] * 18,  # over a page's edge
]


@pytest.mark.parametrize("name", COVER)
def test_calls_follow_the_model(name):
    layout, options = COVER[name]
    scale, model = layout.head_dim**-0.5, {k: options[k] for k in ("softcap", "window", "sink_logits") if k in options}
    flags = {"sink_logits": True} if "sink_logits" in options else {}
    kernels = emulated(cuda_kernels(layout, softmax_scale=scale, **(options | flags)))
    run = CudaSequences(
        layout, kernels, batch=2, capacity=320, dtype=options.get("dtype", "float32"), scale=scale, **model
    )
    for kernel, new_len in STEPS:
        run.step(new_len, kernel)
    run.check()


def test_the_order_of_threads_does_not_matter():
    layout = CacheLayout(4, 1, 64, "tq3", "tq5", recent=16, page=16, sinks=2)
    kernels = cuda_kernels(layout, softmax_scale=0.125)
    outputs = []
    for reverse in (False, True):
        run = CudaSequences(layout, emulated(kernels, reverse=reverse), batch=2, capacity=128, scale=0.125)
        steps = [run.step(new_len, kernel) for kernel, new_len in (("prefill", [70, 33]), ("decode", [1, 1]))]
        outputs.append([*steps, *(run.state[name] for name in run.state)])
    for forward, backward in zip(*outputs, strict=True):
        np.testing.assert_array_equal(forward, backward)


@pytest.mark.parametrize("scheme", ["tq4", "polar"])
def test_stale_memory_is_never_read_into_a_result(scheme):
    layout = CacheLayout(2, 1, 32, scheme, scheme, sinks=2, recent=16, page=16)
    run = CudaSequences(layout, emulated(cuda_kernels(layout, softmax_scale=0.2)), batch=2, capacity=96, scale=0.2)
    for name, array in run.state.items():
        array[...] = 0xFFFF if name.endswith("codes") else np.nan
    for kernel, new_len in (("prefill", [1, 70]), ("decode", [1, 1]), ("prefill", [20, 9])):
        assert np.isfinite(run.step(new_len, kernel)).all()
