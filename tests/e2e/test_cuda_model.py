"""A whole model with the CUDA kernels, on a machine without a GPU: they run on the interpreter, all else on the CPU.

The model is compiled for the CPU with the CUDA backend's cache, passes and kernels; in the place of each kernel stands
a function that calls the interpreter. So what lies between kernels and model is tested: orders of arguments, rotations
that were fused, types, pages.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from ptx_compile import needs_nvcc
from ptx_kernel import PtxKernel, as_array, interpreted
from references import random_ids
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

import tqc
from tqc.artifact import read_manifest
from tqc.codegen.target import Target
from tqc.compiler import CompileOptions, compile_model
from tqc.compiler import schedules as compiler_schedules
from tqc.compiler.configurations import Configure, by_records
from tqc.passes.lower_to_schedules import Schedules

ARCH = "sm_80"
_NUMBERS = itertools.count()


class Interpreted:
    """Kernels that are made one by one and compiled all at once when the first of them is called."""

    def __init__(self) -> None:
        self.waiting: dict[str, tvm.tirx.PrimFunc] = {}
        self.ready: dict[str, PtxKernel] = {}
        self.called: list[str] = []

    def in_place_of(self, kernel: tvm.tirx.PrimFunc | None) -> tvm.tirx.PrimFunc | None:
        """A function of the CPU with the kernel's parameters that runs it."""
        if kernel is None:
            return None
        name = f"tqc_test_kernel_{next(_NUMBERS)}"
        self.waiting[name] = kernel
        tvm_ffi.register_global_func(name, lambda *tensors: self.call(name, tensors), override=True)
        with IRBuilder() as builder:
            with T.prim_func(is_private=True, s_tir=True):
                T.func_name("interpreted")
                T.func_attr({"tirx.is_scheduled": True})
                buffers = []
                for buffer in kernel.params:
                    made = T.match_buffer(T.arg(str(buffer.name), T.handle()), list(buffer.shape), str(buffer.dtype))
                    IRBuilder.name(str(buffer.name), made)
                    buffers.append(made)
                with T.sblock("call"):
                    T.reads()
                    T.writes()
                    T.evaluate(T.call_packed(name, *buffers))
        return builder.get()

    def call(self, name: str, tensors: tuple) -> None:
        if self.waiting:
            self.ready |= interpreted(self.waiting, ARCH, unwritten=())
            self.waiting = {}
        self.called.append(name)
        self.ready[name](*(as_array(tensor) for tensor in tensors))


@pytest.fixture
def cuda_kernels_on_the_cpu(monkeypatch):
    """Compiling for the CPU takes the CUDA backend, its kernels interpreted."""
    needs_nvcc()
    kernels, cpu = Interpreted(), compiler_schedules._cpu

    def backend(target: Target, weights, configure: Configure) -> compiler_schedules.Backend:
        shown = Target("cuda", ARCH)
        cuda = compiler_schedules._cuda(shown, weights, by_records(shown, ()))
        own = cpu(target, weights, configure)
        made = cuda.schedules
        return compiler_schedules.Backend(
            Schedules(
                append=lambda layout, **options: kernels.in_place_of(made.append(layout, **options)),
                decode=lambda layout, **options: kernels.in_place_of(made.decode(layout, **options)),
                prefill=lambda layout, **options: kernels.in_place_of(made.prefill(layout, **options)),
                others={name: lambda call, n=name: kernels.in_place_of(made.others[n](call)) for name in made.others},
                decisions=made.decisions,
                dtypes=made.dtypes,
                fresh=made.fresh,
                single=made.single,
            ),
            layout_weights=own.layout_weights,
            schedule=own.schedule,
            prepare=cuda.prepare,
        )

    monkeypatch.setattr(compiler_schedules, "_cpu", backend)
    monkeypatch.setitem(compiler_schedules.STORAGE, "cpu", compiler_schedules.STORAGE["cuda"])
    return kernels


@pytest.mark.parametrize(
    ("kv", "options", "dtype"),
    [
        ("tq4", {}, "fp32"),
        ("k:tqp4,v:tq3", {"fold": False}, "fp16"),
        ("k:tq3.5,v:polar", {"recent": 0, "fold": False}, "fp32"),
    ],
)
def test_the_answers_are_those_of_the_cpu(tiny_onnx, cuda_kernels_on_the_cpu, tmp_path, kv, options, dtype):
    kernels, model = cuda_kernels_on_the_cpu, tiny_onnx(arch="llama", dtype=dtype)
    settings = {"kv": kv, "max_context": 512, **options}
    path = compile_model(CompileOptions(model, tmp_path / "cuda.tqc", **settings))
    manifest = read_manifest(path)
    assert (manifest.cache.order, manifest.cache.exact_dtype) == ("fragments", "float16")

    ids = random_ids(330)
    found = answers(tqc.load(path), ids)
    assert len(set(kernels.called)) >= 4
    reference = answers(tqc.load(_on_the_cpu(model, tmp_path / "cpu.tqc", settings)), ids)
    exact = answers(tqc.load(_on_the_cpu(model, tmp_path / "exact.tqc", settings | {"kv": "fp32"})), ids)
    # float16 arithmetic, and codes on the edge between two, change far less than coding does.
    assert np.abs(found - reference).mean() < 0.15 * np.abs(reference - exact).mean()


def _on_the_cpu(model: Path, output: Path, settings: dict) -> Path:
    """The model compiled for the CPU with its own kernels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler_schedules, "_cpu", _CPU)
        patch.setitem(compiler_schedules.STORAGE, "cpu", _STORAGE)
        return compile_model(CompileOptions(model, output, **settings))


_CPU, _STORAGE = compiler_schedules._cpu, compiler_schedules.STORAGE["cpu"]


def answers(session, ids: list[int]) -> np.ndarray:
    """Logits after chunks and single tokens, of which most read pages of codes."""
    parts = [session.prefill(ids[:250]), session.prefill(ids[250:320])]
    parts += [session.decode([token]) for token in ids[320:]]
    return np.concatenate(parts)
