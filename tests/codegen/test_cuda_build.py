from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
import tvm
import tvm_ffi
from tvm import relax

from tqc.codegen import cuda_build, fatbin
from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.codegen.target import Target
from tqc.errors import TargetError


@pytest.fixture(autouse=True)
def nvcc():
    try:
        return find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))


def doubled() -> tvm.IRModule:
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((tvm.tirx.Var("n", "int64"), 8), "float32"))
    with bb.function("main", [x]):
        bb.emit_func_output(bb.normalize(relax.op.add(x, x)))
    return bb.get()


def test_relax_build_embeds_machine_code_although_tvm_was_imported_first(tmp_path):
    target = Target("cuda", "sm_90")
    paths = [tmp_path / "first.so", tmp_path / "second.so"]
    for path in paths:
        with cuda_build_environment(target):
            relax.build(doubled(), target.tvm_target()).export_library(str(path))
    library = paths[0].read_bytes()
    assert fatbin.architectures(library) == ("sm_90",)
    assert b"__global__" not in library
    assert library == paths[1].read_bytes()


def test_the_callback_is_tvms_own_again_afterwards():
    before = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
    with cuda_build_environment(Target("cuda", "sm_80")):
        assert not tvm_ffi.get_global_func("tvm_callback_cuda_compile").same_as(before)
    assert tvm_ffi.get_global_func("tvm_callback_cuda_compile").same_as(before)


def test_what_nvcc_refuses_is_a_target_error():
    with pytest.raises(TargetError, match="could not compile"), cuda_build_environment(Target("cuda", "sm_80")):
        tvm_ffi.get_global_func("tvm_callback_cuda_compile")("nonsense")


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="mine"), cuda_build_environment(Target("cuda", "sm_80")):
        raise RuntimeError("mine")


def test_a_missing_cudart_is_a_target_error(monkeypatch):
    monkeypatch.setattr(cuda_build, "_CUDART", "libcudart.so.of-no-version")
    with pytest.raises(TargetError, match="libcudart"):
        cuda_build._load_cudart()


def test_a_missing_c_compiler_is_a_target_error(monkeypatch):
    monkeypatch.setattr(cuda_build.cc, "get_cc", lambda: "/no/such/compiler")
    with pytest.raises(TargetError, match="C compiler"):
        cuda_build._load_stub_driver()


def test_the_runtime_loads_once_after_tvm():
    program = """
        import tvm
        from tqc.codegen.cuda_build import load_cuda_runtime
        load_cuda_runtime()
        load_cuda_runtime()
        print(tvm.get_global_func("ffi.Module.create.cuda") is not None)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["True"]
