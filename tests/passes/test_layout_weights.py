"""The packed layout keeps what a function computes, changes weight types, and leaves shared weights readable."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm.target import Target

from tqc.codegen.target import native_level
from tqc.dialect import rotate, sketch
from tqc.passes.layout_weights import LayoutWeights, PackColumns
from tqc.schedules.cpu_matmul import MatmulConfig

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class FakeWeight:
    array: np.ndarray
    log: tuple = ()

    def then(self, transform, *, shape, dtype):
        array = transform.apply(self.array)
        assert (array.shape, str(array.dtype)) == (tuple(shape), dtype)
        return replace(self, array=array, log=(*self.log, repr(transform)))


def module(body, weights, *, hidden=24, name="main", dtype="float32"):
    """`main(x [b, s, hidden], weights…)` with `body(bb, x, weights) → result`."""
    batch, seq = tirx.Var("b", "int64"), tirx.Var("s", "int64")
    x = relax.Var("x", relax.TensorType((batch, seq, hidden), dtype))
    params = {n: relax.Var(n, relax.TensorType(a.shape, str(a.dtype))) for n, a in weights.items()}
    bb = relax.BlockBuilder()
    with bb.function(name, [x, *params.values()], attrs={"num_input": 1, "global_symbol": name}):
        with bb.dataflow():
            out = bb.emit_output(body(bb, x, params))
        bb.emit_func_output(out)
    return bb.get()


def evaluate(mod, x, arrays):
    mod = relax.transform.LegalizeOps()(mod)
    vm = relax.VirtualMachine(relax.build(mod, Target({"kind": "llvm", "mcpu": native_level()})), tvm.cpu())
    names = [p.name for p in mod["main"].params[1:]]
    result = vm["main"](tvm.runtime.tensor(x), *[tvm.runtime.tensor(arrays[n]) for n in names])
    return result.numpy()


def check(mod, arrays, *, hidden=24, dtype="float32"):
    """Applies the pass and compares; returns the new module and the weights."""
    weights = {name: FakeWeight(array) for name, array in arrays.items()}
    packed = LayoutWeights(config=MatmulConfig(rows=2), weights=weights)(mod)  # small tiles compile fast
    relax.analysis.well_formed(packed)
    x = RNG.standard_normal((2, 3, hidden)).astype(dtype)
    expected = evaluate(mod, x, arrays)
    found = evaluate(packed, x, {name: weight.array for name, weight in weights.items()})
    tolerance = 1e-4 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return packed, weights


def array(*shape, dtype="float32"):
    return RNG.standard_normal(shape).astype(dtype)


def callees(mod):
    return [
        binding.value.args[0].name_hint
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and getattr(binding.value.op, "name", "") == "relax.call_tir"
    ]


def test_before_and_after():
    mod = module(lambda bb, x, w: bb.emit(relax.op.matmul(x, w["w"])), {"w": array(24, 40)})
    after = LayoutWeights()(mod)["main"]
    assert [str(var.ty) for var in after.params[1:]] == ['R.Tensor((2, 24, 32), dtype="float32")']
    lines = [str(b.value).strip() for block in after.body.blocks for b in block.bindings]
    call = 'R.call_tir(matmul_24x40, (x, w), out_ty=R.Tensor((b, s, 40), dtype="float32"))'
    assert lines == [call, "lv"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_matmul_with_a_weight(dtype):
    arrays = {"w": array(24, 40, dtype=dtype)}
    mod = module(lambda bb, x, w: bb.emit(relax.op.matmul(x, w["w"])), arrays, dtype=dtype)
    packed, weights = check(mod, arrays, dtype=dtype)
    assert callees(packed) == ["matmul_24x40"]
    assert weights["w"].log == ("PackColumns(block=32, transposed=False)",)


def test_transposed_weight_loses_its_transpose():
    arrays = {"w": array(40, 24)}

    def body(bb, x, w):
        return bb.emit(relax.op.matmul(x, bb.emit(relax.op.permute_dims(w["w"]))))

    packed, weights = check(module(body, arrays), arrays)
    assert "permute_dims" not in str(packed["main"])
    assert weights["w"].log == ("PackColumns(block=32, transposed=True)",)


def test_bias_and_residual_move_into_the_kernel():
    arrays = {"w": array(24, 24), "b": array(24)}

    def body(bb, x, w):
        y = bb.emit(relax.op.add(bb.emit(relax.op.matmul(x, w["w"])), w["b"]))
        return bb.emit(relax.op.add(x, y))

    packed, _ = check(module(body, arrays), arrays)
    assert callees(packed) == ["matmul_24x24_bias_residual"]
    assert "R.add" not in str(packed["main"])


def test_products_of_one_input_share_a_call():
    arrays = {"q": array(24, 40), "k": array(24, 20), "v": array(24, 20), "b": array(20)}

    def body(bb, x, w):
        q = bb.emit(relax.op.matmul(x, w["q"]))
        total = bb.emit(relax.op.sum(q))
        k = bb.emit(relax.op.add(w["b"], bb.emit(relax.op.matmul(x, w["k"]))))
        v = bb.emit(relax.op.matmul(x, w["v"]))
        return bb.emit(relax.op.add(bb.emit(relax.op.multiply(k, v)), total))

    packed, _ = check(module(body, arrays), arrays)
    assert callees(packed) == ["matmul_24x40_20_20_bias"]


def test_a_residual_that_needs_the_sister_product_is_not_grouped():
    arrays = {"a": array(24, 24), "b": array(24, 24)}

    def body(bb, x, w):
        first = bb.emit(relax.op.matmul(x, w["a"]))
        return bb.emit(relax.op.add(bb.emit(relax.op.matmul(x, w["b"])), first))

    packed, _ = check(module(body, arrays), arrays)
    assert callees(packed) == ["matmul_24x24", "matmul_24x24_residual"]


def test_an_add_of_the_product_to_itself_stays():
    arrays = {"w": array(24, 24)}

    def body(bb, x, w):
        y = bb.emit(relax.op.matmul(x, w["w"]))
        return bb.emit(relax.op.add(y, y))

    packed, _ = check(module(body, arrays), arrays)
    assert "R.add" in str(packed["main"])


def test_a_product_with_two_readers_keeps_its_own_value():
    arrays = {"w": array(24, 24)}

    def body(bb, x, w):
        y = bb.emit(relax.op.matmul(x, w["w"]))
        return bb.emit(relax.op.multiply(bb.emit(relax.op.add(y, x)), y))

    check(module(body, arrays), arrays)


def test_a_weight_that_others_read_stays_and_gets_a_packed_copy():
    arrays = {"embedding": array(40, 24)}

    def body(bb, x, w):
        logits = bb.emit(relax.op.matmul(x, bb.emit(relax.op.permute_dims(w["embedding"]))))
        row = bb.emit(relax.op.take(w["embedding"], relax.const([3], "int64"), axis=0))
        return bb.emit(relax.op.add(logits, bb.emit(relax.op.sum(row))))

    packed, weights = check(module(body, arrays), arrays)
    assert [p.name for p in packed["main"].params] == ["x", "embedding", "embedding.packed_transposed"]
    assert weights["embedding"].log == ()


def test_a_weight_used_as_it_is_and_transposed_has_two_copies():
    arrays = {"w": array(24, 24)}

    def body(bb, x, w):
        y = bb.emit(relax.op.matmul(x, w["w"]))
        return bb.emit(relax.op.matmul(y, bb.emit(relax.op.permute_dims(w["w"]))))

    packed, _ = check(module(body, arrays), arrays)
    assert [p.name for p in packed["main"].params[2:]] == ["w.packed", "w.packed_transposed"]


def test_constants_and_rotations_are_packed_at_compile_time():
    constant = array(24, 16)

    def body(bb, x, w):
        return bb.emit(rotate(bb.emit(relax.op.matmul(x, relax.const(constant)))))

    packed, _ = check(module(body, {}), {})
    assert callees(packed) == ["matmul_24x16", "matmul_16x16"]


def test_a_sketch_is_one_packed_product_each_way():
    def body(bb, x, w):
        back = sketch(bb.emit(sketch(x, scheme="tqp3", head_dim=16)), scheme="tqp3", head_dim=16, inverse=True)
        return bb.emit(back)

    packed, _ = check(module(body, {}, hidden=16), {}, hidden=16)
    assert callees(packed) == ["matmul_16x32", "matmul_32x16"]


def test_functions_of_a_module_agree_on_the_layout():
    plain = module(lambda bb, x, w: bb.emit(relax.op.sum(w["w"])), {"w": array(24, 24)}, name="other")
    mod = module(lambda bb, x, w: bb.emit(relax.op.matmul(x, w["w"])), {"w": array(24, 24)})
    mod.update(plain)
    packed = LayoutWeights()(mod)
    assert [p.name for p in packed["main"].params] == ["x", "w", "w.packed"]
    assert [p.name for p in packed["other"].params] == ["x", "w", "w.packed"]


def test_repr_of_a_transform_names_its_options():
    assert repr(PackColumns(32)) == "PackColumns(block=32, transposed=False)"
