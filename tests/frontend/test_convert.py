from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.convert import convert
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS


def _convert(model, tmp_path):
    return convert(canonicalise(build(load(model.save(tmp_path))), BUILDERS))


def test_signature_and_results(decoder, tmp_path):
    mod, weights = _convert(decoder(), tmp_path)
    main = mod["main"]
    assert [var.name for var in main.params] == ["input_ids", "positions", "past_key_0", "past_value_0", *weights]
    assert int(main.attrs["num_input"]) == 4
    logits, key, value = main.ret_ty.fields
    batch, seq = main.params[0].ty.shape
    past = main.params[2].ty.shape[2]
    assert list(logits.shape) == [batch, seq, 40]
    for present in (key, value):
        assert [str(dim) for dim in (present.shape[0], present.shape[2])] == [str(batch), f"{past} + {seq}"]
        assert [int(dim) for dim in (present.shape[1], present.shape[3])] == [2, 16]


def test_weights_carry_no_data_into_the_module(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.add("ReduceSum", ["raw_logits", model.ints(-1)], "sums", keepdims=1)
    model.add("Add", ["raw_logits", model.constant("four", np.ones((1, 1, 4), np.float32))], "logits")
    model.nodes[-1].input[0] = "sums"
    mod, weights = _convert(model, tmp_path)
    constants = []

    def visit(expr):
        if isinstance(expr, tvm.ir.GenericConst):
            constants.append(expr.value.numpy().size)

    relax.analysis.post_order_visit(mod["main"], visit)
    assert constants == [4]
    assert {tuple(weight.shape) for weight in weights.values()} == {(40, 32), (32, 64), (32, 32), (64, 32), (32, 40)}


def test_tied_embeddings_are_two_parameters_of_one_source(decoder, tmp_path):
    model = decoder()
    model.nodes.pop()
    model.add("Transpose", ["embedding"], "onnx::MatMul_99", perm=[1, 0])
    model.add("MatMul", ["residual", "onnx::MatMul_99"], "logits")
    _, weights = _convert(model, tmp_path)
    embedding, head = weights["embedding"], [w for w in weights.values() if w.transforms]
    assert [w.source_name for w in head] == ["embedding"]
    np.testing.assert_array_equal(head[0].numpy(), embedding.numpy().T)


def test_shapes_that_do_not_fit_name_the_node(decoder, tmp_path):
    model = decoder()
    canonical = canonicalise(build(load(model.save(tmp_path))), BUILDERS)
    canonical.graph.producer["out"].inputs[1] = "w_logits"
    with pytest.raises(FrontendError) as caught:
        convert(canonical)
    assert caught.value.where == "MatMul node_out"
