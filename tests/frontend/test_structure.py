"""Graphs whose nodes are not what ONNX says they are, and graphs that only come in another order."""

from __future__ import annotations

import onnx
import pytest
import tvm_ffi
from onnx import helper

from tqc.errors import FrontendError
from tqc.frontend import import_model


@pytest.fixture
def refused(decoder, tmp_path):
    """`refused(change, message)` changes a decoder's nodes and expects an import error."""

    def check(change, message):
        model = decoder()
        change(model, {node.output[0]: node for node in model.nodes})
        with pytest.raises(FrontendError, match=message):
            import_model(model.save(tmp_path))

    return check


def test_order_does_not_matter(decoder, tmp_path):
    model = decoder()
    first = import_model(model.save(tmp_path))
    model.nodes.reverse()
    assert tvm_ffi.structural_equal(first.mod, import_model(model.save(tmp_path)).mod, map_free_vars=True)


def test_cycles(refused):
    def change(model, nodes):
        nodes["residual"].input[1] = "logits"

    refused(change, r"depends on its own result(.|\n)*node_residual")


def test_a_tensor_defined_twice(refused):
    refused(lambda model, nodes: model.add("Neg", ["x"], "out"), r"defined twice(.|\n)*Neg node_out")


def test_a_tensor_defined_by_a_weight_and_a_node(refused):
    refused(lambda model, nodes: model.add("Neg", ["x"], "w_o"), "defined twice")


@pytest.mark.parametrize(
    ("inputs", "message"), [(["x"], "wrong operands"), (["x", ""], "wrong operands"), (["x"] * 3, "wrong operands")]
)
def test_operands(refused, inputs, message):
    def change(model, nodes):
        del nodes["residual"].input[:]
        nodes["residual"].input.extend(inputs)

    refused(change, rf"{message}(.|\n)*Add node_residual")


def test_outputs(refused):
    def none(model, nodes):
        del nodes["residual"].output[:]

    refused(none, "has no output")
    refused(lambda model, nodes: nodes["residual"].output.append("more"), "too many outputs")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (helper.make_attribute("axis", 2.5), "wrong type"),
        (helper.make_attribute("axis", 2), "twice"),
        (helper.make_attribute("nonsense", 2), "unknown attribute"),
    ],
    ids=str,
)
def test_attributes(refused, attribute, message):
    def change(model, nodes):
        node = nodes["present.0.key"]
        if message == "wrong type":
            del node.attribute[:]
        node.attribute.append(attribute)

    refused(change, rf"{message}(.|\n)*node_present.0.key")


def test_a_missing_attribute(refused):
    def change(model, nodes):
        del nodes["present.0.key"].attribute[:]

    refused(change, "lacks an attribute")


def test_casts_to_unknown_types(refused):
    refused(lambda model, nodes: model.add("Cast", ["x"], "other", to=99), "cast to an unsupported type")


def test_graph_outputs_of_one_name(decoder, tmp_path):
    proto = decoder().model()
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FrontendError, match=r"outputs have one name(.|\n)*logits"):
        import_model(path)


def test_a_constant_without_its_numbers(refused):
    def change(model, nodes):
        tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=[1])
        model.nodes.append(helper.make_node("Constant", [], ["empty"], "node_empty", value=tensor))

    refused(change, r"cannot be read(.|\n)*Constant node_empty")
