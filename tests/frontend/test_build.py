from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tqc.errors import FrontendError
from tqc.frontend.build import SMALL, build
from tqc.frontend.load import load


def _build(decoder, tmp_path):
    return build(load(decoder.save(tmp_path)))


def test_weights_and_constants_are_told_apart(decoder, tmp_path):
    model = decoder()
    long = model.constant("long", np.ones(SMALL + 1, np.float32))
    short = model.constant("short", np.ones(SMALL, np.float32))
    row = model.constant("row", np.ones((1, 8), np.float32))
    table = model.constant("table", np.ones((64, 64), np.int64))
    for name in (long, short, row, table):
        model.add("Neg", [name], f"{name}_used")
    graph = _build(model, tmp_path)
    assert {"embedding", "w_q", "w_logits", long} <= set(graph.weights)
    assert {short, row, table, "scale"} <= set(graph.constants)


def test_a_transposed_weight_is_a_second_weight_of_the_same_source(decoder, tmp_path):
    model = decoder()
    model.nodes.pop()
    model.add("Transpose", ["embedding"], "turned", perm=[1, 0])
    model.add("MatMul", ["residual", "turned"], "logits")
    graph = _build(model, tmp_path)
    assert "Transpose" not in {node.op for node in graph.nodes if node.outputs == ["turned"]}
    assert graph.weights["turned"].shape == (32, 40)
    assert graph.weights["turned"].source is graph.weights["embedding"].source
    np.testing.assert_array_equal(graph.weights["turned"].numpy(), graph.weights["embedding"].numpy().T)


def test_a_cast_weight_records_the_cast(decoder, tmp_path):
    model = decoder()
    model.add("Cast", ["w_o"], "w_half", to=TensorProto.FLOAT16)
    graph = _build(model, tmp_path)
    assert graph.weights["w_half"].numpy().dtype == np.float16


def test_nodes_that_do_nothing_are_left_out(decoder, tmp_path):
    model = decoder()
    last = model.nodes.pop()
    model.add("Identity", ["residual"], "same")
    model.add("Cast", ["same"], "still", to=TensorProto.FLOAT)
    model.add("Dropout", ["still"], "again")
    model.add("Concat", ["again"], "wrapped", axis=0)
    model.nodes.append(helper.make_node("MatMul", ["wrapped", last.input[1]], ["logits"]))
    graph = _build(model, tmp_path)
    assert graph.producer["logits"].inputs[0] == "residual"


def test_empty_operands_of_a_concatenation_are_left_out(decoder, tmp_path):
    model = decoder()
    empty = model.constant("empty", np.zeros((0,), np.float32))
    model.nodes.insert(0, helper.make_node("Concat", [empty, "past_key_values.0.key"], ["past"], axis=2))
    concat = next(node for node in model.nodes if node.output[0] == "present.0.key")
    concat.input[0] = "past"
    graph = _build(model, tmp_path)
    assert graph.producer["present.0.key"].inputs[0] == "past_key_values.0.key"


def test_constant_nodes_become_constants(decoder, tmp_path):
    model = decoder()
    model.nodes.insert(0, helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0]))
    model.nodes.insert(0, helper.make_node("Constant", [], ["integer"], value_int=3))
    graph = _build(model, tmp_path)
    assert graph.constants["c"].dtype == np.float32
    assert graph.constants["integer"].dtype == np.int64
    assert graph.constants["integer"].shape == ()


def test_an_output_may_be_an_alias(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.add("Identity", ["raw_logits"], "logits")
    assert _build(model, tmp_path).outputs["logits"] == "raw_logits"


def test_control_flow_is_refused(decoder, tmp_path):
    model = decoder()
    branch = helper.make_graph([], "branch", [], [])
    model.add("If", ["residual"], "chosen", then_branch=branch, else_branch=branch)
    with pytest.raises(FrontendError, match="node_chosen"):
        _build(model, tmp_path)
