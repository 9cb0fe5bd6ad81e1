from __future__ import annotations

import pytest
from cpu_driver import Sequences, compile_kernels

from tqc.codec.layout import CacheLayout


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_decode(isa):
    layout = CacheLayout(8, 2, 64, "tq4", "tq4", recent=32)
    scale = 64**-0.5
    kernels = compile_kernels(layout, isa, softmax_scale=scale)
    run = Sequences(layout, kernels, batch=2, capacity=512, scale=scale)
    for new in ([5, 0], [200, 3], [1, 1]):
        k = run.vectors(2, max(new))
        import numpy as np

        run.append(k, run.vectors(2, max(new)), np.array(new, np.int32))
        run.length += np.array(new, np.int32)
        run.check()
        run.step([1, 1], "decode")
        run.check()
