from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tqc.frontend.dtypes import element_types, widen_attributes, widened
from tqc.frontend.graph import Node

TYPES = {"h": "float16", "f": "float32", "i": "int64", "b": "bool"}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node("Cast", ["h"], ["y"], {"to": TensorProto.FLOAT}), "float32"),
        (Node("MatMul", ["h", "h"], ["y"]), "float16"),
        (Node("Where", ["b", "f", "f"], ["y"]), "float32"),
        (Node("RMSNormalization", ["f", "h"], ["y"]), "float16"),
        (Node("Shape", ["h"], ["y"]), "int64"),
        (Node("Less", ["f", "f"], ["y"]), "bool"),
        (Node("ConstantOfShape", ["i"], ["y"]), "float32"),
        (Node("ConstantOfShape", ["i"], ["y"], {"value": np.zeros(1, np.int64)}), "int64"),
        (Node("Gather", ["f", "i"], ["y"]), "float32"),
    ],
)
def test_result_types(node, expected):
    assert element_types(node, TYPES) == {"y": expected}


def test_what_is_computed_in_float32():
    assert element_types(Node("Cast", ["f"], ["y"], {"to": TensorProto.BFLOAT16}), TYPES) == {"y": "float32"}
    wide = widened(np.array([1.5, -2], ml_dtypes.bfloat16))
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(wide, [1.5, -2])
    half = np.ones(2, np.float16)
    assert widened(half) is half


def test_attributes_that_say_bfloat16_say_float32():
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    assert widen_attributes(cast).attribute[0].i == TensorProto.FLOAT
    assert cast.attribute[0].i == TensorProto.BFLOAT16
    value = helper.make_tensor("v", TensorProto.BFLOAT16, [1], [0.5])
    filled = widen_attributes(helper.make_node("ConstantOfShape", ["s"], ["y"], value=value))
    np.testing.assert_array_equal(numpy_helper.to_array(filled.attribute[0].t), np.float32([0.5]))
    other = helper.make_node("Gather", ["x", "i"], ["y"], axis=16)
    assert widen_attributes(other) == other


def test_unknown_stays_unknown():
    assert element_types(Node("Neg", ["?"], ["y"]), TYPES) == {}
    assert element_types(Node("Cast", ["f"], ["y"], {"to": TensorProto.FLOAT8E4M3FN}), TYPES) == {}
