"""Composite operations that ONNX does not define may be damaged in ways that nothing has checked before."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tqc.errors import FrontendError
from tqc.frontend import import_model


def _decoder(decoder, *operands, op="MultiHeadAttention", **attrs):
    """A decoder with a broken operation before its last product."""
    model = decoder()
    node = helper.make_node(op, operands, ["broken"], "composite", domain="com.microsoft", **attrs)
    model.nodes.insert(-1, node)
    model.nodes[-1].input[0] = "broken"
    return model


@pytest.mark.parametrize(
    ("op", "operands", "attrs", "message"),
    [
        ("MultiHeadAttention", ["residual"] * 3, {"num_heads": 2, "unidirectional": -1}, "neither 0 nor 1"),
        ("MultiHeadAttention", ["residual"] * 3, {"num_heads": 1 << 40}, "out of range"),
        ("MultiHeadAttention", ["residual"] * 3, {"num_heads": "two"}, "wrong type"),
        ("GroupQueryAttention", ["residual"] * 5, {"num_heads": 2, "kv_num_heads": 0}, "composite"),
        ("SkipSimplifiedLayerNormalization", [], {}, "lacks operands"),
    ],
)
def test_refused_by_name(decoder, tmp_path, op, operands, attrs, message):
    with pytest.raises(FrontendError, match=message) as caught:
        import_model(_decoder(decoder, *operands, op=op, **attrs).save(tmp_path))
    assert "composite" in str(caught.value)


def test_a_constant_that_is_not_a_number(decoder, tmp_path):
    model = decoder()
    last = model.nodes.pop()
    last.input[0] = model.add("Mul", ["residual", model.constant("nan", np.float32(np.nan))], "spoilt")
    model.nodes.append(last)
    with pytest.raises(FrontendError, match=r"not a number(.|\n)*node_spoilt"):
        import_model(model.save(tmp_path))


def test_factors_of_a_norm_that_are_no_vector(decoder, tmp_path):
    model = _decoder(decoder, "residual", "residual", op="SimplifiedLayerNormalization")
    with pytest.raises(FrontendError, match=r"factors are no vector(.|\n)*composite"):
        import_model(model.save(tmp_path))
