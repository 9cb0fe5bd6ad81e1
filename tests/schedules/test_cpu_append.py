from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from cache_model import read
from cpu_driver import Sequences, compile_kernels

from tqc.codec.layout import CacheLayout
from tqc.schedules.cpu_append import make_append
from tqc.schedules.cpu_config import cpu_config

# Every width on K and on V, every ISA, head_dim, page size, and both kinds of window.
CASES = [
    ("avx512", CacheLayout(2, 2, 64, "tq1", "tq8", recent=32)),
    ("avx512", CacheLayout(2, 2, 80, "tq2", "tq7", recent=0)),
    ("avx512", CacheLayout(1, 1, 96, "tq3", "tq6", sinks=0, recent=17)),
    ("avx512", CacheLayout(1, 1, 128, "tq4", "tq5", recent=64)),
    ("avx512", CacheLayout(1, 1, 256, "tq5", "tq4", page=32, recent=0, sinks=20)),
    ("avx512", CacheLayout(2, 2, 64, "tq6", "tq3", page=16, recent=40)),
    ("avx512", CacheLayout(1, 1, 64, "tq7", "tq2", page=128, recent=0)),
    ("avx512", CacheLayout(2, 2, 64, "tq8", "tq1", recent=1)),
    ("avx512", CacheLayout(2, 2, 80, "fp32", "fp16", recent=0)),
    ("avx512", CacheLayout(2, 2, 64, "bf16", "bf16", recent=16, page=32)),
    ("avx2", CacheLayout(2, 2, 96, "tq3", "tq8", recent=32)),
    ("avx2", CacheLayout(1, 1, 64, "tq6", "fp16", recent=0)),
    ("portable", CacheLayout(1, 1, 80, "tq5", "tq7", recent=16)),
    ("portable", CacheLayout(2, 2, 64, "fp16", "tq4", recent=0)),
    ("avx512", CacheLayout(2, 2, 64, "tq4", "tq3", recent=20, page=16, ring=3)),
    ("avx2", CacheLayout(1, 1, 64, "fp32", "tq4", sinks=0, recent=0, page=32, ring=2)),
    ("portable", CacheLayout(1, 1, 64, "tq4", "fp16", recent=64, page=32, ring=1)),
]
CALLS = ([5, 0, 1], [1, 1, 1], [300, 3, 33], [1, 64, 60], [0, 0, 0], [63, 1, 200], [1, 1, 1])


@pytest.mark.parametrize(("isa", "layout"), CASES)
def test_any_sequence_of_calls_gives_the_state_of_its_history(isa: str, layout: CacheLayout) -> None:
    run = Sequences(layout, compile_kernels(layout, isa, ("append",)), batch=3, capacity=512)
    for new in CALLS:
        run.extend(new)
        run.check()


SPECIAL = [
    ("avx512", CASES[3][1]),
    ("avx2", CASES[1][1]),
    ("portable", CASES[0][1]),
    ("avx512", CacheLayout(1, 1, 64, "tqp3", "polar", recent=0, page=32)),
    ("avx2", CacheLayout(1, 1, 64, "qjl1", "tq2.5", recent=16, page=32)),
]


@pytest.mark.parametrize(("isa", "layout"), SPECIAL)
def test_special_vectors(isa: str, layout: CacheLayout) -> None:
    """Zero vectors stay zero; what has no finite scale is NaN and nothing beside it is."""
    run = Sequences(layout, compile_kernels(layout, isa, ("append",)), batch=2, capacity=512)
    k, v = run.vectors(layout.kv_heads, 300), run.vectors(layout.kv_heads, 300)
    for x in (k, v):
        x[0, 0, 10] = 0
        x[0, 0, 11, 3] = np.nan
        x[0, 0, 12, 4] = -np.inf
        x[0, 0, 13] = 1e30
        x[0, 0, 14] = 1e6
        x[0, 0, 15] = 1e-6
    run.extend([300, 300], k, v)
    for side in "kv":
        held = read(layout, run.state, run.table[0], 0, 300, side)
        assert (held[0, 10] == 0).all()
        assert np.isnan(held[0, 11:15]).all()
        assert np.isfinite(held[0, 15]).all()
        assert np.abs(held[0, 15]).max() < 1e-4
        held[0, 11:15] = 0
        assert np.isfinite(held).all()
        assert np.isfinite(read(layout, run.state, run.table[1], 1, 300, side)).all()


def test_the_order_of_tasks_does_not_matter_to_a_ring() -> None:
    """Tasks run side by side: no page may be written that a newer one of the same call overwrites."""
    layout = CacheLayout(2, 2, 64, "tq4", "tq4", sinks=0, recent=0, page=16, ring=2)
    text = make_append(layout, cpu_config("portable")).script()
    loop = re.compile(r"^( *)for (\w+) in T\.parallel\((.*)\):$", re.MULTILINE)
    text, loops = loop.subn(r"\1for \2_r in range(\3):\n\1    \2 = (\3) - 1 - \2_r", text)
    assert loops == 2
    backwards = tvm.script.from_source(text, s_tir=True).with_attr("global_symbol", "append")
    run = Sequences(layout, tvm.compile(backwards, target="llvm"), batch=2, capacity=512)
    for new in ([200, 30], [1, 100]):
        run.extend(new)
        run.check()


def test_memory_beyond_the_tokens_is_left_alone() -> None:
    layout = CacheLayout(2, 2, 64, sinks=4, recent=32)
    run = Sequences(layout, compile_kernels(layout, "avx512", ("append",)), batch=2, capacity=512)
    before = {name: array.copy() for name, array in run.state.items()}
    run.extend([20, 0])
    for name, array in run.state.items():
        if name.startswith(("k_", "v_")):
            np.testing.assert_array_equal(array, before[name])
        else:
            np.testing.assert_array_equal(array[1], before[name][1])
    assert (run.state["sink_k"][0, :, :, 4:] == before["sink_k"][0, :, :, 4:]).all()
    assert (run.state["sink_v"][0, :, 4:] == before["sink_v"][0, :, 4:]).all()
    assert (run.state["tail_k"][0, :, 0, :, 16:] == before["tail_k"][0, :, 0, :, 16:]).all()
    assert (run.state["tail_v"][0, :, 1] == before["tail_v"][0, :, 1]).all()
