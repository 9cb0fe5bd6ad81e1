"""If nodes between constants are told from other control flow."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tqc.frontend.branches import ELSE, THEN, constant_branches
from tqc.frontend.graph import Node

TABLE = np.arange(6, dtype=np.float32).reshape(2, 3)


def branch(*nodes, initializers=(), outputs=("t",)):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    return helper.make_graph(list(nodes), "branch", [], infos, list(initializers))


def constant(name="t", value=TABLE):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def choice(then, other, op="If"):
    return Node(op, ["condition"], ["y"], {THEN: then, ELSE: other})


def test_constants_of_both_branches():
    stored = branch(initializers=[numpy_helper.from_array(TABLE + 1, "t")])
    node = choice(branch(constant("s"), constant()), stored)
    assert constant_branches(node)
    (first,), (second,) = node.attrs[THEN], node.attrs[ELSE]
    np.testing.assert_array_equal(first, TABLE)
    np.testing.assert_array_equal(second, TABLE + 1)


def _external() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(TABLE, "t")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


@pytest.mark.parametrize(
    "other",
    [
        branch(helper.make_node("Neg", ["outside"], ["t"])),
        branch(constant("s"), outputs=["outside"]),
        branch(helper.make_node("Constant", [], ["t"], value_float=1.0)),
        branch(initializers=[_external()]),
        branch(constant(), constant("s"), outputs=["t", "s"]),
        branch(outputs=[]),
    ],
    ids=["operation", "outer tensor", "other attribute", "external", "more outputs", "no output"],
)
def test_everything_else_stays(other):
    node = choice(branch(constant()), other)
    assert not constant_branches(node)
    assert node.attrs[ELSE] is other


def test_other_nodes_stay():
    assert not constant_branches(choice(branch(constant()), branch(constant()), op="Loop"))
