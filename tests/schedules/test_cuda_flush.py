"""Whole pages on the device, both sides: the bytes of the codec, whatever the scheme."""

from __future__ import annotations

import numpy as np
import pytest
from cache_model import check_coded, empty_state
from cuda_driver import cuda_layout, run_probe

from tqc.codec.page_codec import decode_page
from tqc.schedules.cuda_builder import blocks, i32
from tqc.schedules.cuda_cache import Cache
from tqc.schedules.cuda_flush import Flush

CASES = [
    ("tq4", "tq3"),
    ("tq1", "tq7"),
    ("qjl1o", "tqp3"),
    ("polar", "polar-plain"),
    ("16@5/32@0", "fp16"),
    ("tq8", "bf16"),
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("k", "v"), CASES)
def test_a_page_holds_what_the_codec_makes_of_it(k: str, v: str, reverse: bool) -> None:
    layout = cuda_layout(1, 1, 48, k, v)
    vectors = np.random.default_rng(0).standard_normal((2, 64, 48)).astype(np.float32)
    state, before = empty_state(layout, 1, 2), empty_state(layout, 1, 2)
    names = [name for name in state if name.endswith(("codes", "scale"))]

    def emit(vectors, *buffers) -> None:
        cache = Cache(layout, None, None, None, dict(zip(names, buffers, strict=True)))
        with blocks(1, 1, 1):
            flush = Flush.declare(layout, 0, 64)
            values = {side: lambda token, d, n=n: vectors[n, token, d] for n, side in enumerate("kv")}
            flush.write(cache, (i32(1), i32(0)), values)

    run_probe(emit, vectors, *(state[name] for name in names))
    for n, side in enumerate("kv"):
        form = layout.form(side)
        scales = state.get(f"{side}_scale", np.zeros((2, 1, 0), np.float16))[1]
        held = decode_page(form, side, state[f"{side}_codes"][1], scales, 64, "fragments")
        check_coded(form, side, held, vectors[n : n + 1])
        for name in names:  # the other page
            np.testing.assert_array_equal(state[name][0], before[name][0])
