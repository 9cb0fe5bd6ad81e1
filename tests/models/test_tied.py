from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tqc.models.tied import share_tied_weights


def two_matmuls(first: np.ndarray, second: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["y"]), helper.make_node("MatMul", ["x", "b"], ["z"])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, first.shape[1])) for name in "yz"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (2, first.shape[0]))],
        outputs,
        [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(2, 32, dtype=np.float32)})


def shared(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """(weights no longer stored, operators before the first MatMul), after checking that the outputs are the same."""
    before = run(model)
    dropped = share_tied_weights(model.graph)
    onnx.checker.check_model(model)
    for left, right in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(left, right)
    kept = {weight.name for weight in model.graph.initializer}
    assert kept == {"a", "b"} - set(dropped)
    return dropped, [node.op_type for node in model.graph.node[:-2]]


def weight(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((32, 32)).astype(np.float32)


def test_equal_weights_are_stored_once():
    assert shared(two_matmuls(weight(), weight())) == (["b"], ["Identity"])


def test_a_transposed_twin_becomes_a_transpose_node():
    assert shared(two_matmuls(weight(), np.ascontiguousarray(weight().T))) == (["b"], ["Transpose"])


def test_different_weights_stay():
    assert shared(two_matmuls(weight(0), weight(1))) == ([], [])


def test_the_same_values_in_another_order_stay():
    assert shared(two_matmuls(weight(), np.ascontiguousarray(weight()[::-1]))) == ([], [])


def test_small_weights_stay():
    small = np.ones((32, 4), np.float32)
    assert shared(two_matmuls(small, small)) == ([], [])
