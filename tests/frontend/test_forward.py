"""Models without a cache in Relax."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from tqc.errors import FrontendError
from tqc.frontend.forward import has_no_cache, import_forward
from tqc.frontend.load import load


def save(folder, nodes, inputs, outputs, constants=()):
    def infos(tensors):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]

    initializers = [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in dict(constants).items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    return load(folder / "m.onnx")


ADD = [helper.make_node("Add", ["x", "z"], ["y"])]


def test_sizes_that_must_be_equal_get_one_name(tmp_path):
    model = save(tmp_path, ADD, {"x": ["a", "s", 4], "z": ["b", "t", 4]}, {"y": [None, None, 4]})
    imported = import_forward(model)
    assert [tensor.shape for tensor in (*imported.inputs, *imported.outputs)] == [("batch", "seq", 4)] * 3


def test_sizes_keep_their_names_where_they_can(tmp_path):
    model = save(tmp_path, ADD, {"x": ["rows", 4], "z": ["rows", 4]}, {"y": ["rows", 4]})
    assert import_forward(model).inputs[0].shape == ("rows", 4)


def test_a_table_limits_the_size_that_is_cut_from_it(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Slice", ["table", "zero", "n", "zero"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["float"], to=1),
        helper.make_node("Add", ["x", "float"], ["y"]),
    ]
    constants = {"table": list(range(6)), "zero": [0]}
    imported = import_forward(save(tmp_path, nodes, {"x": ["n_tokens"]}, {"y": ["n_tokens"]}, constants))
    assert imported.limits == {"n_tokens": 6}


def test_rejects_operations_that_are_not_supported(tmp_path):
    nodes = [helper.make_node("Hardmax", ["x"], ["y"], name="hard")]
    with pytest.raises(FrontendError, match="Unsupported operations") as error:
        import_forward(save(tmp_path, nodes, {"x": ["b", 4]}, {"y": ["b", 4]}))
    assert "hard" in error.value.found


def test_rejects_sizes_that_cannot_be_equal(tmp_path):
    with pytest.raises(FrontendError):
        import_forward(save(tmp_path, ADD, {"x": ["a", 3], "z": ["a", 4]}, {"y": ["a", 4]}))


@pytest.mark.parametrize("name", ["past_key_values.0.key", "cache_k", "present.0.value"])
def test_a_cache_is_told_by_its_name(tmp_path, name):
    nodes = [helper.make_node("Add", ["x", name], ["y"])]
    assert not has_no_cache(save(tmp_path, nodes, {"x": [4], name: [4]}, {"y": [4]}))
    assert has_no_cache(save(tmp_path, ADD, {"x": [4], "z": [4]}, {"y": [4]}))
