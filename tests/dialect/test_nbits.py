"""`tqc.matmul_nbits` and `tqc.gather_nbits` against the NumPy definition, and what they are lowered to."""

import ml_dtypes
import numpy as np
import pytest
import tvm_ffi
from nbits_weights import FORMATS, make_weight
from run_op import run_op
from tvm import relax, s_tir, tirx
from tvm.s_tir import dlight

from tqc.codegen.target import Target
from tqc.dialect import gather_nbits, matmul_nbits

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_matmul_equals_numpy(form, dtype):
    weight = make_weight(24, 70, **form, dtype=dtype)
    x = RNG.standard_normal((2, 3, 70)).astype(dtype)
    got = run_op(lambda x, *w: matmul_nbits(x, *w, **weight.options, k=70, n=24), x=x, **weight.arrays)
    tolerance = 1e-5 if dtype == "float32" else 2e-3
    np.testing.assert_allclose(got, x.astype(np.float32) @ weight.dense.T, rtol=tolerance, atol=tolerance * 10)
    assert got.dtype == dtype


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gather_equals_numpy(form, dtype):
    weight = make_weight(24, 70, **form, dtype=dtype)
    packed, *rest = weight.arrays.items()
    ids = np.array([[0, 23, 5], [-7, 24, 1]])
    arrays = dict([packed, ("ids", ids), *rest])
    got = run_op(lambda p, i, *w: gather_nbits(p, i, *w, **weight.options, rows=24, width=70), **arrays)
    np.testing.assert_allclose(got, weight.dense[np.clip(ids, 0, 23)].astype(dtype), rtol=2e-3)
    assert got.dtype == dtype


def call(x=(2, 32), packed=(8, 2, 8), scales=(8, 2), points=None, points_dtype="uint8", **options):
    def var(name, shape, dtype="float32"):
        return relax.Var(name, relax.TensorType(shape, dtype))

    weight = [var("packed", packed, "uint8"), var("scales", scales)]
    weight += [var("points", points, points_dtype)] if points else []
    return matmul_nbits(var("x", x), *weight, **({"bits": 4, "block": 16, "k": 32, "n": 8} | options))


def infer(value):
    return relax.BlockBuilder().normalize(value).ty


def test_the_type_of_a_product():
    batch = tirx.Var("b", "int64")
    assert str(infer(call(x=(batch, 3, 32)))) == 'R.Tensor((b, 3, 8), dtype="float32")'
    assert infer(call(points=(8, 1))) is not None
    assert infer(call(points=(8, 2), points_dtype="float32")) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": (2, 33)},
        {"x": (32,)},
        {"packed": (8, 2, 16)},
        {"packed": (8, 3, 8)},
        {"scales": (2, 8)},
        {"points": (8, 2)},
        {"points": (8, 1), "points_dtype": "float32"},
        {"points": (8, 2), "points_dtype": "int8"},
        {"bits": 8},
    ],
)
def test_operands_that_do_not_fit_are_rejected(wrong):
    with pytest.raises(TypeError, match=r"weight of 8 rows|x must be"):
        infer(call(**wrong))


@pytest.mark.parametrize("rows", [1, tirx.Var("s", "int64")])
def test_scheduled_for_cuda_no_weight_is_stored_as_floats(rows):
    """dlight's kernel dequantizes tiles of the weight on chip; nothing but its result goes to global memory."""
    bb = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((tirx.Var("b", "int64"), rows, 64), "float32"))
    p, s = relax.Var("p", relax.TensorType((96, 2, 16), "uint8")), relax.Var("s", relax.TensorType((96, 2), "float32"))
    with bb.function("main", [x, p, s]):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(matmul_nbits(x, p, s, bits=4, block=32, k=64, n=96)))
        bb.emit_func_output(out)
    with Target("cuda", "sm_90").tvm_target():
        scheduled = dlight.ApplyDefaultSchedule(dlight.gpu.Matmul())(relax.transform.LegalizeOps()(bb.get()))
    (kernel,) = [func for _, func in scheduled.functions_items() if isinstance(func, tirx.PrimFunc)]
    assert kernel.attrs["tirx.is_scheduled"]
    scopes = []
    tvm_ffi.structural_walk(
        kernel.body, [(s_tir.SBlock, lambda b: scopes.extend(x.scope() for x in b.alloc_buffers))], order="post"
    )
    assert scopes
    assert all(scope.startswith(("shared", "local", "wmma")) for scope in scopes)


@pytest.mark.parametrize("points", ["", "float"])
def test_scales_may_be_bfloat16(points):
    weight = make_weight(24, 64, bits=4, block=16, points=points, dtype=ml_dtypes.bfloat16)
    x, ids = RNG.standard_normal((3, 64)).astype("float32"), np.array([3, 17])
    got = run_op(lambda x, *w: matmul_nbits(x, *w, **weight.options, k=64, n=24), x=x, **weight.arrays)
    np.testing.assert_allclose(got, x @ weight.dense.T, rtol=1e-5, atol=1e-4)
    packed, *rest = weight.arrays.items()
    arrays = dict([packed, ("ids", ids), *rest])
    got = run_op(lambda p, i, *w: gather_nbits(p, i, *w, **weight.options, rows=24, width=64), **arrays)
    np.testing.assert_allclose(got, weight.dense[ids], rtol=1e-6)
    assert got.dtype == "float32"
