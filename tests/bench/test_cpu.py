"""Every candidate of the CPU is made once, on a small problem, and is right."""

from __future__ import annotations

import importlib.util

import pytest

from tqc.bench import cpu, cpu_peers, timing
from tqc.bench.cpu import CpuBench
from tqc.bench.problem import Geometry, Problem
from tqc.bench.timing import Turns, run_checked
from tqc.errors import TqcError

HEADS = Geometry(4, 2, 64)


def counted(call) -> float:
    call()
    return 1.0


@pytest.fixture(scope="module")
def bench():
    return CpuBench(["tq4", "fp16"], threads=1)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One or two copies of a cache, and a small one of memory."""
    monkeypatch.setattr(timing, "COPIES_BYTES", 1 << 18)
    monkeypatch.setattr(cpu, "COPY_BYTES", 1 << 16)


@pytest.mark.parametrize(("batch", "context"), [(1, 40), (2, 200), (1, 2300)])
def test_all_candidates_are_right(bench, batch, context):
    problem = Problem(HEADS, batch, context)
    makers = list(bench.makers(problem))
    found = {timing.name: timing for timing in run_checked(makers, Turns(1, 2, counted))}
    peers = ["onnxruntime", *["torch"] * bool(importlib.util.find_spec("torch"))]
    assert list(found) == [*peers, "tq4", "tq4 append", "fp16", "fp16 append", "copy"]
    assert {timing.fault for timing in found.values()} == {""}
    assert all(found[name].error < 1e-4 for name in (*peers, "tq4", "fp16"))
    assert found["onnxruntime"].bytes == 4 * problem.values
    assert [timing.kind for timing in found.values()][-5:] == ["ours", "append", "ours", "append", "copy"]
    assert found["copy"].bytes == 2 << 16


def test_a_wrong_kernel_is_found(bench):
    from dataclasses import replace

    wrong = CpuBench(["tq4"], threads=1)
    kernels = bench._built("tq4", HEADS)
    skipping = {**kernels.functions, "decode": lambda *arguments: None}
    wrong._kernels["tq4", HEADS] = replace(kernels, functions=skipping)
    found = {
        timing.name: timing for timing in run_checked(list(wrong.makers(Problem(HEADS, 1, 40))), Turns(1, 1, counted))
    }
    assert "wrong result" in found["tq4"].fault
    assert found["tq4"].rounds == ()


def test_what_is_told(bench, monkeypatch):
    assert bench.device["threads"] == 1
    assert bench.free_bytes() > 1 << 20
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bench.notes() == ["torch is not installed: no time of its attention"]
    assert list(cpu_peers.peers()) == ["onnxruntime"]
    bench.check(HEADS)
    with pytest.raises(TqcError):
        CpuBench(["tq4"], 1).check(Geometry(4, 2, 7))
