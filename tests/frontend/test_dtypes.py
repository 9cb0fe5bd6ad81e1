from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from tqc.frontend.dtypes import element_types
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


def test_unknown_stays_unknown():
    assert element_types(Node("Neg", ["?"], ["y"]), TYPES) == {}
    assert element_types(Node("Cast", ["f"], ["y"], {"to": TensorProto.BFLOAT16}), TYPES) == {}
