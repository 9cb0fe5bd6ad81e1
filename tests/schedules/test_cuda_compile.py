"""The kernels through TVM and nvcc, on a machine without a GPU: what the library holds, and where barriers stand."""

from __future__ import annotations

import re

import pytest
import tvm
import tvm_ffi
from cuda_driver import cuda_kernels

from tqc.codec.layout import CacheLayout
from tqc.codegen import fatbin
from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.codegen.target import Target
from tqc.errors import TargetError
from tqc.schedules.cuda_config import CudaConfig

LAYOUTS = {
    "whole-warps": CacheLayout(4, 2, 64, "tq4", "tq3"),
    "ragged": CacheLayout(6, 2, 80, "tq3", "fp16", page=48, exact_dtype="float16"),
    "wide": CacheLayout(4, 1, 256, "tq2", "tq2", recent=0, sinks=0),
    "ring": CacheLayout(4, 2, 64, "tq4", "fp16", recent=64, ring=2),
    "sketches": CacheLayout(4, 2, 80, "qjl2o", "tqp3", recent=0),
    "polar": CacheLayout(4, 2, 128, "polar", "tq2.5"),
}
OPTIONS = {"ragged": {"sink_logits": True}, "ring": {"window": 128}}


def needs_nvcc() -> None:
    try:
        find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))


def compile_all(layout: CacheLayout, target: Target, **options) -> tvm.runtime.Executable:
    kernels = cuda_kernels(layout, softmax_scale=0.125, **options)
    functions = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    return tvm.compile(tvm.IRModule(functions), target=target.tvm_target())


@pytest.fixture(scope="module", params=LAYOUTS)
def sources(request) -> tuple[CacheLayout, str]:
    """CUDA C++ as TVM writes it; nvcc is left out."""
    layout, name = LAYOUTS[request.param], "tvm_callback_cuda_compile"
    before = tvm_ffi.get_global_func(name)
    tvm_ffi.register_global_func(name, lambda source: b"not compiled", override=True)
    try:
        built = compile_all(layout, Target("cuda", "sm_80"), **OPTIONS.get(request.param, {}))
        return layout, built.mod.imports[0].inspect_source("cuda")
    finally:
        tvm_ffi.register_global_func(name, before, override=True)


@pytest.mark.parametrize(
    ("arch", "schemes"),
    [("sm_80", ("tq4", "tq4")), ("sm_90", ("tq4", "tq4")), ("sm_80", ("tqp4", "polar")), ("sm_90", ("qjl1o", "bf16"))],
)
def test_the_library_holds_machine_code_of_the_architecture_and_no_source(arch, schemes, tmp_path):
    needs_nvcc()
    target = Target("cuda", arch)
    with cuda_build_environment(target):
        compile_all(CacheLayout(4, 2, 64, *schemes), target, dtype="float16", sink_logits=True).export_library(
            str(tmp_path / "kernels.so")
        )
    library = (tmp_path / "kernels.so").read_bytes()
    assert fatbin.architectures(library) == (arch,)
    assert b"__global__" not in library
    for kernel in (b"append_kernel", b"append_kernel_1", b"decode_kernel", b"decode_kernel_1", b"prefill_kernel"):
        assert kernel in library


def test_every_thread_reaches_every_barrier(sources):
    """No barrier under an `if`, and no loop around one whose length depends on the thread."""
    barriers = 0
    open_blocks: list[str] = []
    for line in sources[1].splitlines():
        if "__syncthreads()" in line:
            barriers += 1
            around = [block for block in open_blocks if "__global__" not in block]
            assert all(block.lstrip().startswith("for ") for block in around), around
            assert not any("threadIdx" in block for block in around), around
        open_blocks += [line] * line.count("{")
        del open_blocks[len(open_blocks) - line.count("}") :]
    assert barriers > 40


def test_shared_memory_is_at_most_what_the_config_counts(sources):
    layout, source = sources
    kernels = re.split(r'extern "C" __global__', source)
    used = {}
    for text in kernels:
        arrays = re.findall(r"__shared__ alignas\(\d+\) float \w+\[(\d+)\]", text)
        if arrays:
            used[re.search(r"(\w+_kernel\w*)\(", text).group(1)] = 4 * sum(map(int, arrays))
    config = CudaConfig()
    assert used["decode_kernel"] <= config.attention_bytes(layout, 1)
    assert used["prefill_kernel"] <= config.attention_bytes(layout, config.queries(layout))
    assert used["append_kernel"] <= config.append_bytes(layout)
    assert max(used.values()) <= 48 * 1024


def test_no_sizes_come_from_the_host(sources):
    """Lengths stay on the device: the kernels read them there, and hosts pass dimensions only."""
    signatures = re.findall(r"void __launch_bounds__\(\d+\) (\w+\([^)]*\)) \{", sources[1])
    assert len(signatures) >= 5
    for signature in signatures:
        scalars = re.findall(r"(?:int|int64_t) (\w+)[,)]", signature)
        assert not {"length", "new_len"} & set(scalars)
