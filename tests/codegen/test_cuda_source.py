from __future__ import annotations

import numpy as np
from cuda_driver import probe

from tqc.codegen.cuda_source import block_sizes, cuda_source
from tqc.codegen.target import Target
from tqc.schedules.cuda_builder import blocks, phase, store


def doubled(x) -> None:
    with blocks(1, 1, 1), phase(64, 64) as item:
        store(x, x[item] * 2, item)


def test_a_source_with_all_kernels() -> None:
    kernel = probe(doubled, np.zeros(64, np.float32))
    source = cuda_source({"one": kernel, "two": kernel}, Target("cuda", "sm_90"))
    assert block_sizes(source) == {"one_kernel": 64, "two_kernel": 64}


def test_bounds_with_resident_blocks() -> None:
    text = 'extern "C" __global__ void __launch_bounds__(128, 1) a_kernel(float* x);'
    assert block_sizes(text) == {"a_kernel": 128}
