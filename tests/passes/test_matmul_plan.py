"""What the plan finds around matmuls: weights, adds that belong to them, other readers, sister products."""

from __future__ import annotations

from tvm import relax, tirx
from tvm.relax import op

from tqc.passes.matmul_plan import MatmulPlan, WeightUse


def plan(body, shapes):
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 8), "float32"))
    w = {name: relax.Var(name, relax.TensorType(shape, "float32")) for name, shape in shapes.items()}
    bb = relax.BlockBuilder()
    with bb.function("main", [x, *w.values()], attrs={"num_input": 1}):
        with bb.dataflow():
            out = bb.emit_output(body(bb, x, w))
        bb.emit_func_output(out)
    return MatmulPlan(bb.get()["main"])


def test_bias_then_residual_belong_to_the_product():
    def body(bb, x, w):
        return op.add(x, bb.emit(op.add(bb.emit(op.matmul(x, w["w"])), w["b"])))

    (product,) = plan(body, {"w": (8, 8), "b": (8,)}).products
    assert product.weight == WeightUse("w", False)
    assert [(e.kind, e.position) for e in product.epilogue] == [("bias", 1), ("residual", 0)]


def test_a_transpose_is_needless_if_only_matmuls_read_it():
    found = plan(lambda bb, x, w: op.matmul(x, bb.emit(op.permute_dims(w["w"]))), {"w": (5, 8)})
    assert found.weights == {WeightUse("w", True)}
    assert len(found.needless) == 1
    assert found.plain == set()


def test_other_readers_make_a_weight_plain():
    def body(bb, x, w):
        return op.add(bb.emit(op.matmul(x, w["w"])), bb.emit(op.sum(w["w"])))

    assert plan(body, {"w": (8, 8)}).plain == {"w"}


def test_an_add_of_two_products_belongs_to_the_first():
    def body(bb, x, w):
        return op.add(bb.emit(op.matmul(x, w["a"])), bb.emit(op.matmul(x, w["b"])))

    first, second = plan(body, {"a": (8, 8), "b": (8, 8)}).products
    assert [e.kind for e in first.epilogue] == ["residual"]
    assert second.epilogue == ()


def test_sister_products_form_a_group():
    def body(bb, x, w):
        return op.multiply(bb.emit(op.matmul(x, w["a"])), bb.emit(op.matmul(x, w["b"])))

    found = plan(body, {"a": (8, 8), "b": (8, 8)})
    assert [len(group) for group in found.groups.values()] == [2, 2]


def test_a_matrix_among_the_inputs_is_no_weight():
    assert plan(lambda bb, x, w: op.matmul(x, op.permute_dims(x)), {"w": (8, 8)}).products == []
