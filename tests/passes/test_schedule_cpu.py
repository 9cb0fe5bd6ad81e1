"""Every scheduled function computes what the unscheduled one computes, on few rows, odd sizes and many rows."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.relax import op
from tvm.target import Target

from tqc.codegen.target import native_level
from tqc.passes.schedule_cpu import ScheduleCpu

RNG = np.random.default_rng(0)
TARGET = Target({"kind": "llvm", "mcpu": native_level()})


def layer_norm(bb, x):
    centred = bb.emit(op.subtract(x, bb.emit(op.mean(x, -1, keepdims=True))))
    variance = bb.emit(op.mean(bb.emit(op.multiply(centred, centred)), -1, keepdims=True))
    return op.divide(centred, bb.emit(op.sqrt(bb.emit(op.add(variance, relax.const(1e-5, "float32"))))))


def rms_norm(bb, x):
    power = bb.emit(op.power(x, relax.const(2.0, "float32")))
    mean = bb.emit(op.add(bb.emit(op.mean(power, -1, keepdims=True)), relax.const(1e-5, "float32")))
    return op.multiply(x, bb.emit(op.rsqrt(mean)))


def rotate_half(bb, x):
    low, high = bb.emit(op.strided_slice(x, [2], [0], [16])), bb.emit(op.strided_slice(x, [2], [16], [32]))
    return op.concat([bb.emit(op.negative(high)), low], axis=-1)


def swap_heads(bb, x):
    rows, columns = x.ty.shape[1], x.ty.shape[2]
    heads = bb.emit(op.reshape(x, (x.ty.shape[0], rows, 2, columns // 2)))
    return op.permute_dims(heads, [0, 2, 1, 3])


CASES = {
    "silu": (48, "float32", lambda bb, x: op.multiply(bb.emit(op.nn.silu(x)), x)),
    "silu_odd_width": (45, "float32", lambda bb, x: op.nn.silu(x)),
    "silu_half": (48, "float16", lambda bb, x: op.nn.silu(x)),
    "exp": (32, "float32", lambda bb, x: op.exp(x)),
    "gelu_tanh": (48, "float32", lambda bb, x: op.nn.gelu_tanh(x)),
    "layer_norm": (96, "float32", layer_norm),
    "layer_norm_odd_width": (83, "float32", layer_norm),
    "rms_norm": (96, "float32", rms_norm),
    "softmax": (40, "float32", lambda bb, x: op.nn.softmax(x, axis=-1)),
    "rotate_half": (32, "float32", rotate_half),
    "swap_heads": (32, "float32", swap_heads),
    "transpose": (24, "float32", lambda bb, x: op.permute_dims(x, [0, 2, 1])),
    "sum_of_the_middle_axis": (24, "float32", lambda bb, x: op.sum(x, 1)),
    "argmax": (24, "float32", lambda bb, x: op.argmax(x, -1)),
    "cast": (24, "float32", lambda bb, x: op.astype(x, "float16")),
}


def module(width, dtype, body):
    """`main(x [b, s, width]) → body(bb, x)`, lowered and fused."""
    x = relax.Var("x", relax.TensorType((tirx.Var("b", "int64"), tirx.Var("s", "int64"), width), dtype))
    bb = relax.BlockBuilder()
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(body(bb, x))
        bb.emit_func_output(out)
    passes = relax.transform
    lowered = (passes.LegalizeOps(), passes.AnnotateTIROpPattern(), passes.FuseOps(), passes.FuseTIR())
    return tvm.transform.Sequential(lowered)(bb.get())


def machine(mod):
    return relax.VirtualMachine(relax.build(mod, TARGET), tvm.cpu())["main"]


@pytest.mark.parametrize("case", CASES)
def test_scheduled_equals_unscheduled(case):
    width, dtype, body = CASES[case]
    mod = module(width, dtype, body)
    plain, fast = machine(mod), machine(ScheduleCpu()(mod))
    tolerance = 2e-6 if dtype == "float32" else 1e-3
    # TVM leaves a sum over no elements undefined, so only the other cases know 0 rows.
    none = [] if case == "sum_of_the_middle_axis" else [(1, 0)]
    for shape in [(1, 1), (2, 3), (3, 700), *none]:
        x = tvm.runtime.tensor((3 * RNG.standard_normal((*shape, width))).astype(dtype))
        np.testing.assert_allclose(fast(x).numpy(), plain(x).numpy(), rtol=tolerance, atol=tolerance)


def test_every_function_of_the_common_kind_is_scheduled():
    unknown = {"argmax", "sum_of_the_middle_axis"}
    for case, (width, dtype, body) in CASES.items():
        mod = ScheduleCpu()(module(width, dtype, body))
        funcs = [func for _, func in mod.functions_items() if isinstance(func, tirx.PrimFunc)]
        funcs = [func for func in funcs if not relax.analysis.has_reshape_pattern(func)]
        done = all("tirx.is_scheduled" in (func.attrs or {}) for func in funcs)
        assert done == (case not in unknown), case


def test_scheduled_functions_are_left_alone():
    mod = module(16, "float32", lambda bb, x: op.exp(x))
    once = ScheduleCpu()(mod)
    tvm.ir.assert_structural_equal(ScheduleCpu()(once), once)


def test_before_and_after():
    before = module(32, "float32", lambda bb, x: op.nn.silu(x))
    after = ScheduleCpu()(before)
    names = [gv.name_hint for gv in before.get_global_vars()]
    assert names == [gv.name_hint for gv in after.get_global_vars()]
    assert "T.sigmoid" in before.script()
    assert "T.sigmoid" not in after.script()
    assert "T.vectorized(T.int64(16))" in after.script()
    tvm.ir.assert_structural_equal(before["main"], after["main"])
