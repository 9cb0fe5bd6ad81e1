"""The kernels through TVM and nvcc, on a machine without a GPU: what the library holds and what the kernels take."""

from __future__ import annotations

import re

import pytest
import tvm
import tvm_ffi
from cuda_driver import cuda_kernels, cuda_layout
from ptx_compile import needs_nvcc

from tqc.codec.layout import CacheLayout
from tqc.codegen import fatbin
from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.target import Target

KERNELS = (
    "append_kernel",
    "append_kernel_1",
    "append_token_kernel",
    "decode_kernel",
    "decode_kernel_1",
    "prefill_kernel",
)
LAYOUTS = {
    "codes": cuda_layout(4, 2, 64, "tq4", "tq3"),
    "exact": cuda_layout(6, 2, 80, "tq3", "fp16"),
    "ring": cuda_layout(4, 2, 64, "tq4", "fp16", recent=64, ring=2),
    "sketches": cuda_layout(4, 2, 80, "qjl2o", "tqp3", recent=0),
    "polar": cuda_layout(4, 2, 128, "polar", "tq2.5"),
}
OPTIONS = {"exact": {"sink_logits": True}, "ring": {"window": 128}}


def compile_all(layout: CacheLayout, target: Target, **options) -> tvm.runtime.Executable:
    kernels = cuda_kernels(layout, softmax_scale=0.125, arch=target.arch, **options)
    functions = {name: kernel.with_attr("global_symbol", name) for name, kernel in kernels.items()}
    return tvm.compile(tvm.IRModule(functions), target=target.tvm_target())


@pytest.fixture(scope="module", params=LAYOUTS)
def source(request) -> str:
    """CUDA C++ as TVM writes it; nvcc is left out."""
    layout, name = LAYOUTS[request.param], "tvm_callback_cuda_compile"
    before = tvm_ffi.get_global_func(name)
    tvm_ffi.register_global_func(name, lambda source: b"not compiled", override=True)
    try:
        built = compile_all(layout, Target("cuda", "sm_80"), **OPTIONS.get(request.param, {}))
        return built.mod.imports[0].inspect_source("cuda")
    finally:
        tvm_ffi.register_global_func(name, before, override=True)


@pytest.mark.parametrize(
    ("arch", "schemes"), [("sm_80", ("tq4", "tq4")), ("sm_90", ("tqp4", "polar")), ("sm_120", ("qjl1o", "bf16"))]
)
def test_the_library_holds_machine_code_of_the_architecture_and_no_source(arch, schemes, tmp_path):
    needs_nvcc()
    target = Target("cuda", arch)
    with cuda_build_environment(target):
        compile_all(cuda_layout(4, 2, 64, *schemes), target, sink_logits=True).export_library(
            str(tmp_path / "kernels.so")
        )
    library = (tmp_path / "kernels.so").read_bytes()
    assert fatbin.architectures(library) == (arch,)
    assert b"__global__" not in library
    for kernel in KERNELS:
        assert kernel.encode() in library


def test_every_launch_is_a_kernel(source):
    found = set(re.findall(r"void __launch_bounds__\(\d+(?:, \d+)?\) (\w+)\(", source))
    assert found == set(KERNELS)


def test_no_sizes_come_from_the_host(source):
    """Lengths stay on the device: the kernels read them there, and hosts pass dimensions only."""
    signatures = re.findall(r"void __launch_bounds__\(\d+(?:, \d+)?\) (\w+\([^)]*\)) \{", source)
    assert len(signatures) == len(KERNELS)
    for signature in signatures:
        scalars = re.findall(r"(?:int|int64_t) (\w+)[,)]", signature)
        assert not {"length", "new_len"} & set(scalars)


def test_append_declares_no_more_shared_memory_than_its_configuration_counts(source):
    texts = re.split(r'extern "C" __global__', source)
    used = {}
    for text in texts:
        arrays = re.findall(r"__shared__ alignas\(\d+\) float \w+\[(\d+)\]", text)
        if arrays:
            used[re.search(r"(\w+_kernel\w*)\(", text).group(1)] = 4 * sum(map(int, arrays))
    assert set(used) <= {"append_kernel", "append_token_kernel"}  # the others have dynamic memory
    assert used.get("append_kernel", 0) <= 48 * 1024
