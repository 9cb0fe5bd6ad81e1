"""A refused operation says why, once for all nodes of its kind."""

from __future__ import annotations

import pytest
from onnx import helper

from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.frontend.graph import Node
from tqc.frontend.reasons import reasons


def node(op, domain="com.microsoft"):
    return Node(op, ["x"], ["y"], domain=domain)


def test_reasons():
    assert reasons([node("MoE"), node("Other"), node("MoE"), node("LinearAttention")]) == (
        "MoE: experts are not supported; "
        "LinearAttention: it keeps a state and no keys and values: there is no cache to compress"
    )
    assert reasons([node("Attention", ""), node("Unknown")]) == ""


def test_an_operation_that_leaves_the_cache_unknown_is_the_error(decoder, tmp_path):
    """Where the attention is not understood, nothing tells the head_dim: that is not what the user must hear."""
    model = decoder()
    model.nodes[-1].output[0] = "a"
    model.nodes.append(helper.make_node("Attention", ["a", "w_q"], ["logits"], "packed", domain="com.microsoft"))
    proto = model.model()
    for entry in proto.graph.input:
        if entry.name.startswith("past"):
            entry.type.tensor_type.shape.dim[3].dim_param = "kv_cache_dim"
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FrontendError, match="projections are packed") as error:
        import_model(path)
    assert "com.microsoft::Attention packed" in str(error.value)
