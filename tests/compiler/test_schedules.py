"""What a target's backend makes of weights that stay quantized."""

import pytest
import tvm
from tvm import relax, tirx

from tqc.codegen import fatbin
from tqc.codegen.cuda_build import cuda_build_environment
from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.codegen.target import Target
from tqc.compiler.schedules import backend
from tqc.dialect import gather_nbits, matmul_nbits
from tqc.errors import TargetError
from tqc.passes.pipeline import lowering_passes, run


def tied(dtype="float32"):
    """`main(ids, packed, scales)`: rows of a weight times the weight."""
    sizes = [tirx.Var(name, "int64") for name in ("batch", "seq")]
    ids = relax.Var("ids", relax.TensorType(sizes, "int64"))
    packed = relax.Var("packed", relax.TensorType((96, 2, 16), "uint8"))
    scales = relax.Var("scales", relax.TensorType((96, 2), dtype))
    options = {"bits": 4, "block": 32}
    builder = relax.BlockBuilder()
    with builder.function("main", [ids, packed, scales], attrs={"num_input": 1}):
        with builder.dataflow():
            rows = builder.emit(gather_nbits(packed, ids, scales, **options, rows=96, width=64))
            out = builder.emit_output(builder.emit(matmul_nbits(rows, packed, scales, **options, k=64, n=96)))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuda_makes_device_code_of_packed_weights(tmp_path, dtype):
    try:
        find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))
    target = Target("cuda", "sm_90")

    @tvm.transform.module_pass(opt_level=0)
    def pipeline(module, _context):
        return run(module, lowering_passes(backend(target, {}).schedule))

    with cuda_build_environment(target), target.tvm_target():
        built = relax.build(tied(dtype), target.tvm_target(), relax_pipeline=pipeline)
        built.export_library(str(tmp_path / "model.so"))
    library = (tmp_path / "model.so").read_bytes()
    assert fatbin.architectures(library) == ("sm_90",)
    assert b"matmul_nbits_kernel" in library
    assert b"gather_nbits_kernel" in library


def test_the_cpu_lays_them_out_for_its_kernel():
    target = Target("cpu", "x86-64-v2")
    with target.tvm_target():
        module = run(tied(), backend(target, {}).layout_weights)
    assert [var.ty.shape[2] for var in module["main"].params[1:]] == [128, 32]
    assert "tqc." not in str(module["main"])
