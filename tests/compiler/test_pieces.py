"""A model run in pieces computes what it computes as a whole, with few of its weights in memory."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tqc.compiler.pieces import LIMIT, cut, run, whole
from tqc.frontend.load import load

WIDTH, LAYERS = 32, 5
MATRIX = WIDTH * WIDTH * 4


@pytest.fixture(params=["inline", "external"])
def chain(tmp_path, request):
    """x → five products with a matrix and its Tanh each, the product of each one also an output; `bias` joins late.

    All matrices are transposed at the top of the file, as some tools leave them.
    """
    random = np.random.default_rng(0)
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH), np.float32), f"w{n}") for n in range(5)]
    tensors.append(numpy_helper.from_array(random.standard_normal(WIDTH, np.float32), "unread"))
    nodes = [helper.make_node("Transpose", [f"w{n}"], [f"t{n}"], perm=[1, 0]) for n in range(LAYERS)]
    nodes.append(helper.make_node("Neg", ["x"], ["minus"]))
    x = "x"
    for n in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [x, f"t{n}"], [f"y{n}"]))
        nodes.append(helper.make_node("Tanh", [f"y{n}"], [f"x{n}"]))
        x = f"x{n}"
    nodes.append(helper.make_node("Add", [x, "minus"], ["last"]))
    nodes.append(helper.make_node("Mul", [x, "unread"], ["unwanted"]))
    outputs = [value(name, TensorProto.FLOAT, ["n", WIDTH]) for name in (*(f"y{n}" for n in range(LAYERS)), "last")]
    graph = helper.make_graph(nodes, "chain", [value("x", TensorProto.FLOAT, ["n", WIDTH])], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "chain.onnx"
    options = {"save_as_external_data": True, "location": "data", "size_threshold": 0}
    onnx.save(model, path, **(options if request.param == "external" else {}))
    return load(path)


def _compute(model, wanted, limit):
    x = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    results = list(run(model, {"x": ort.OrtValue.ortvalue_from_numpy(x)}, wanted, limit))
    assert [name for name, _ in results] == wanted
    return [array for _, array in results]


@pytest.mark.parametrize("limit", [1, MATRIX, 2 * MATRIX + 1, LIMIT])
def test_any_limit_gives_what_onnxruntime_gives(chain, limit):
    wanted = ["y0", "y3", "last"]
    x = np.random.default_rng(1).standard_normal((3, WIDTH), np.float32)
    session = ort.InferenceSession(chain.path, providers=["CPUExecutionProvider"])
    for found, expected in zip(_compute(chain, wanted, limit), session.run(wanted, {"x": x}), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("limit", "count"), [(1, 5), (MATRIX, 5), (2 * MATRIX, 3), (LIMIT, 1)])
def test_a_piece_has_at_most_the_limit(chain, limit, count):
    pieces = cut(chain, ["last"], limit)
    assert len(pieces) == count
    assert all(len(piece.initializers) * MATRIX <= max(limit, MATRIX) for piece in pieces)


def test_a_weight_is_turned_in_the_piece_that_reads_it(chain):
    for piece in cut(chain, ["last"], 1):
        assert not any(name.startswith("t") for name in (*piece.inputs, *piece.outputs))


def test_what_nothing_wanted_needs_is_left_out(chain):
    names = {name for piece in cut(chain, ["y1"], MATRIX) for name in piece.initializers}
    assert names == {"w0", "w1"}
    assert all(node.op_type != "Add" for piece in cut(chain, ["y1"], MATRIX) for node in piece.nodes)


def test_only_what_is_read_later_is_handed_on(chain):
    pieces = cut(chain, ["y2", "last"], MATRIX)
    assert [set(piece.outputs) for piece in pieces] == [{"x0"}, {"x1"}, {"y2", "x2"}, {"x3"}, {"last"}]
    assert [set(piece.inputs) for piece in pieces] == [{"x"}, {"x0"}, {"x1"}, {"x2"}, {"x3", "x"}]


def test_errors_of_onnxruntime_pass_through(chain):
    with pytest.raises(Exception, match="Incompatible dimensions for matrix multiplication"):
        list(run(chain, {"x": ort.OrtValue.ortvalue_from_numpy(np.zeros((3, 5), np.float32))}, ["last"], 1))


def test_a_session_of_the_whole_stays_for_many_inputs(chain):
    session = ort.InferenceSession(chain.path, providers=["CPUExecutionProvider"])
    inputs = np.random.default_rng(2).standard_normal((3, 4, WIDTH), np.float32)
    values = [{"x": ort.OrtValue.ortvalue_from_numpy(x)} for x in inputs]
    compute = whole(chain, values[0], ["last", "y1"])
    for x, value in zip(inputs, values, strict=True):
        for found, expected in zip(compute(value), session.run(["last", "y1"], {"x": x}), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5)
