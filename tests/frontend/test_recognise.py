"""Layers of a refused model that are understood all the same, and what is in the way of the others."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from tqc.frontend.load import load
from tqc.frontend.recognise import recognise


@pytest.fixture
def changed(exported, tmp_path):
    """`changed(name, change)` → what is recognised of a variant after `change(nodes by name)` on its graph."""

    def make(name, change):
        proto = onnx.load(exported(name))
        change(proto.graph)
        onnx.save(proto, tmp_path / "changed.onnx")
        return recognise(load(tmp_path / "changed.onnx"))

    return make


def _softmaxes(graph):
    return [node for node in graph.node if node.op_type == "Softmax"]


def test_a_good_model(changed):
    found = changed("llama", lambda graph: None)
    assert (len(found.layers), found.missing, found.reasons) == (2, (), ())
    assert found.layers[0].rope.theta == 10000.0


def test_one_strange_softmax(changed):
    def change(graph):
        softmax = _softmaxes(graph)[1]
        softmax.attribute[0].i = 2

    found = changed("llama", change)
    assert [layer.layer for layer in found.layers] == [0]
    assert found.layers[0].mask == "causal"
    assert found.missing == (1,)
    (reason,) = found.reasons
    assert "normalises axis 2" in reason
    assert "layers.1" in reason


def test_one_strange_mask(changed):
    """The scores of layer 1 lose their mask: every query of it would see every key."""

    def change(graph):
        softmax = _softmaxes(graph)[1]
        add = next(node for node in graph.node if softmax.input[0] in node.output)
        while add.op_type == "Cast":
            add = next(node for node in graph.node if add.input[0] in node.output)
        assert add.op_type == "Add"
        softmax.input[0] = add.input[0]

    found = changed("llama", change)
    assert [layer.layer for layer in found.layers] == [0]
    assert found.missing == (1,)
    assert any("every query sees every key" in reason and "layer 1" in reason for reason in found.reasons)


def test_an_operation_elsewhere(changed):
    """What is in the way lies outside the attention: its layers are all understood."""

    def change(graph):
        for node in graph.node:
            if node.op_type == "Sigmoid":
                node.op_type = "Elu"

    found = changed("llama", change)
    assert (len(found.layers), found.missing) == (2, ())


def test_a_composite_that_is_refused(changed):
    def change(graph):
        node = next(node for node in graph.node if "layers.1/mlp/down_proj" in node.name and node.op_type == "MatMul")
        node.op_type, node.domain = "FusedMatMul", "com.microsoft"
        node.attribute.append(helper.make_attribute("transBatchA", 1))

    found = changed("llama", change)
    assert (len(found.layers), found.missing) == (2, ())
    (reason,) = found.reasons
    assert reason.startswith("com.microsoft::FusedMatMul")
    assert "swapped batch axes" in reason


def test_an_interface_that_is_refused(changed):
    found = changed("llama", lambda graph: graph.output.pop())
    assert (found.layers, found.missing) == ((), ())
    assert "no value of layer 1" in found.reasons[0]
