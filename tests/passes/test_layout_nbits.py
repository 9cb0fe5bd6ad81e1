"""Quantized weights in the kernel's layout: what a function computes stays, weights stay packed and are stored once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest
import tvm
import tvm_ffi
from nbits_weights import FORMATS, make_weight
from run_op import tensor
from tvm import relax, tirx
from tvm.target import Target

from tqc.codegen.target import native_level
from tqc.dialect import gather_nbits, matmul_nbits
from tqc.errors import PassError
from tqc.frontend.slabs import slabs
from tqc.frontend.weights import ArrayTensor, Weight
from tqc.passes.layout_nbits import LayoutNbits, PackBlocks, PackWords
from tqc.schedules.cpu_nbits import nbits_config

RNG = np.random.default_rng(0)
TARGET = Target({"kind": "llvm", "mcpu": native_level()})
CONFIG = replace(nbits_config(TARGET), rows=2)  # small tiles compile fast


@dataclass(frozen=True)
class FakeWeight:
    array: np.ndarray

    def then(self, transform, *, shape, dtype):
        array = transform.apply(self.array)
        assert (array.shape, str(array.dtype)) == (tuple(shape), dtype)
        return FakeWeight(array)


class Quantized:
    """A weight's parameters under a prefix and the op on them."""

    def __init__(self, prefix, n, k, *, seed=1, **form):
        self.weight, self.n, self.k = make_weight(n, k, seed=seed, **form), n, k
        self.arrays = {f"{prefix}_{name}": array for name, array in self.weight.arrays.items()}

    def product(self, x, params):
        return matmul_nbits(x, *(params[name] for name in self.arrays), **self.weight.options, k=self.k, n=self.n)

    def rows(self, ids, params):
        packed, *rest = (params[name] for name in self.arrays)
        return gather_nbits(packed, ids, *rest, **self.weight.options, rows=self.n, width=self.k)


def module(body, arrays, *, x_shape=("b", "s", 48), x_dtype="float32"):
    """`main(x, weights…)` with `body(bb, x, weights) → result`."""
    sizes = [tirx.Var(e, "int64") if isinstance(e, str) else e for e in x_shape]
    x = relax.Var("x", relax.TensorType(sizes, x_dtype))
    params = {n: relax.Var(n, relax.TensorType(a.shape, str(a.dtype))) for n, a in arrays.items()}
    bb = relax.BlockBuilder()
    with bb.function("main", [x, *params.values()], attrs={"num_input": 1, "global_symbol": "main"}):
        with bb.dataflow():
            out = bb.emit_output(body(bb, x, params))
        bb.emit_func_output(out)
    return bb.get()


def evaluate(mod, x, arrays):
    vm = relax.VirtualMachine(relax.build(relax.transform.LegalizeOps()(mod), TARGET), tvm.cpu())
    names = [p.name for p in mod["main"].params[1:]]
    return vm["main"](tensor(x), *[tensor(arrays[n]) for n in names]).numpy()


def check(mod, arrays, x, tolerance=1e-4):
    """Applies the pass and compares; returns the new module and the weights."""
    weights = {name: FakeWeight(array) for name, array in arrays.items()}
    after = LayoutNbits(config=CONFIG, weights=weights)(mod)
    relax.analysis.well_formed(after)
    found = evaluate(after, x, {name: weight.array for name, weight in weights.items()})
    np.testing.assert_allclose(found, evaluate(mod, x, arrays), rtol=tolerance, atol=tolerance)
    return after, weights


def callees(mod):
    values = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    calls = [v for v in values if isinstance(v, relax.Call) and getattr(v.op, "name", "") == "relax.call_tir"]
    return [call.args[0].name_hint for call in calls]


def activations(*shape, dtype="float32"):
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("form", FORMATS)
def test_product_and_what_is_stored(form):
    q = Quantized("w", 40, 48, **form)
    mod = module(lambda bb, x, w: bb.emit(q.product(x, w)), q.arrays)
    after, weights = check(mod, q.arrays, activations(2, 3, 48))
    assert callees(after) == [f"matmul_int{form['bits']}_48x40"]
    stored = weights["w_packed"].array
    padded = -(-40 // 32) * 32 / 40
    assert stored.dtype == np.uint8
    assert stored.nbytes == q.arrays["w_packed"].nbytes * padded


def test_bias_and_residual_move_into_the_kernel():
    q = Quantized("w", 48, 48, bits=4, block=16)
    arrays = q.arrays | {"bias": activations(48)}

    def body(bb, x, w):
        return bb.emit(relax.op.add(x, bb.emit(relax.op.add(bb.emit(q.product(x, w)), w["bias"]))))

    after, _ = check(module(body, arrays), arrays, activations(1, 4, 48))
    assert callees(after) == ["matmul_int4_48x48_bias_residual"]


def test_weights_that_meet_the_same_x_share_a_call():
    parts = [Quantized(name, n, 48, bits=4, block=16, seed=n) for name, n in (("q", 64), ("k", 32))]
    other = Quantized("v", 32, 48, bits=8, block=16)
    arrays = {name: a for part in (*parts, other) for name, a in part.arrays.items()}

    def body(bb, x, w):
        return bb.emit(relax.op.concat([bb.emit(part.product(x, w)) for part in (*parts, other)], axis=-1))

    after, _ = check(module(body, arrays), arrays, activations(2, 2, 48))
    assert callees(after) == ["matmul_int4_48x64_32", "matmul_int8_48x32"]


def test_half_precision_activations_are_widened_once():
    parts = [Quantized(name, 32, 48, dtype="float16", **form) for name, form in zip("ab", FORMATS[::3], strict=True)]
    arrays = {name: a for part in parts for name, a in part.arrays.items()}

    def body(bb, x, w):
        return bb.emit(relax.op.add(*[bb.emit(part.product(x, w)) for part in parts]))

    mod = module(body, arrays, x_dtype="float16")
    after, _ = check(mod, arrays, activations(1, 3, 48, dtype="float16"), tolerance=5e-2)
    assert str(after).count("R.astype") == 1


@pytest.mark.parametrize("form", FORMATS)
def test_a_tied_embedding_is_gathered_from_the_laid_out_weight(form):
    q = Quantized("w", 70, 48, **form)

    def body(bb, ids, w):
        return bb.emit(q.product(bb.emit(q.rows(ids, w)), w))

    mod = module(body, q.arrays, x_shape=("b", "s"), x_dtype="int64")
    after, weights = check(mod, q.arrays, np.array([[0, 69, 33], [-5, 80, 32]]))
    assert callees(after) == ["tied_rows", f"matmul_int{form['bits']}_48x70"]
    assert set(weights) == set(q.arrays)


def test_scales_in_bfloat16():
    q = Quantized("w", 40, 48, bits=4, block=16, points="float", dtype=ml_dtypes.bfloat16)
    mod = module(
        lambda bb, i, w: bb.emit(q.product(bb.emit(q.rows(i, w)), w)), q.arrays, x_shape=("b",), x_dtype="int64"
    )
    check(mod, q.arrays, np.array([39, 3, 33]))


def test_an_embedding_alone_stays_as_it_is():
    q = Quantized("w", 70, 48, bits=4, block=16)
    mod = module(lambda bb, ids, w: bb.emit(q.rows(ids, w)), q.arrays, x_shape=("b",), x_dtype="int64")
    assert tvm_ffi.structural_equal(LayoutNbits()(mod), mod)


def test_gather_and_product_may_share_the_numbers_only():
    q = Quantized("w", 32, 48, bits=4, block=16, points="uint8")
    arrays = q.arrays | {"own": RNG.uniform(1, 2, (32, 3)).astype(np.float32)}

    def body(bb, ids, w):
        rows = gather_nbits(w["w_packed"], ids, w["own"], **q.weight.options, rows=32, width=48)
        return bb.emit(q.product(bb.emit(rows), w))

    mod = module(body, arrays, x_shape=("b",), x_dtype="int64")
    _, weights = check(mod, arrays, np.array([3, 1]), tolerance=1e-3)
    assert weights["own"].array.shape == (32, 3)


def test_a_weight_that_something_else_reads_is_refused():
    q = Quantized("w", 3, 48, bits=4, block=16)

    def body(bb, x, w):
        return bb.emit(relax.op.add(bb.emit(q.product(x, w)), w["w_scales"]))

    with pytest.raises(PassError, match="used in two ways"):
        LayoutNbits().apply(module(body, q.arrays, x_shape=(3, 48)))


@pytest.mark.parametrize("most", [1, 10000])
def test_weights_can_be_laid_out_a_part_at_a_time(most):
    arrays = make_weight(100, 64, bits=4, block=16, points="uint8").arrays
    forms = {"packed": PackWords(4), "scales": PackBlocks(4), "zero_points": PackBlocks(4, 4)}
    for name, form in forms.items():
        source = Weight(name, arrays[name].shape, str(arrays[name].dtype), ArrayTensor(arrays[name]), name)
        weight = source.then(form, shape=form.shape(source.shape))
        parts = list(slabs(weight, most))
        assert len(parts) == (4 if most == 1 else 1)
        np.testing.assert_array_equal(np.concatenate(parts), form.apply(arrays[name]))
