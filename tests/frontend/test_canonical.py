from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS


def _canonical(model, tmp_path):
    return canonicalise(build(load(model.save(tmp_path))), BUILDERS)


def test_one_attention_node_with_its_operands(decoder, tmp_path):
    graph = _canonical(decoder(mask="window"), tmp_path).graph
    (node,) = [node for node in graph.nodes if node.kind == "tqc::Attention"]
    assert node.inputs == ["q", "k", "v", "past_key_values.0.key", "past_key_values.0.value"]
    assert node.outputs == ["y", "present.0.key", "present.0.value"]
    assert node.attrs == {"scale": pytest.approx(0.3), "softcap": 0.0, "window": 6, "layer": 0}


def test_only_supported_nodes_remain(decoder, tmp_path):
    canonical = _canonical(decoder(mask="padded"), tmp_path)
    assert {node.kind for node in canonical.graph.nodes} <= set(BUILDERS)
    assert not canonical.graph.users["attention_mask"]


def test_all_unsupported_operations_are_listed_at_once(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "a"
    for number, (op, domain) in enumerate([("Det", ""), ("QMoE", "com.microsoft"), ("Round", "")]):
        model.nodes.append(helper.make_node(op, ["a"], [f"b{number}"], name=f"odd_{number}", domain=domain))
    model.nodes.append(helper.make_node("Sum", ["b0", "b1", "b2"], ["logits"], name="last"))
    with pytest.raises(FrontendError) as caught:
        _canonical(model, tmp_path)
    assert caught.value.what == "Unsupported operations: 4."
    for name in ("Det odd_0", "com.microsoft::QMoE odd_1", "Round odd_2", "Sum last"):
        assert name in caught.value.found


def test_fused_attention_of_other_domains_is_unsupported(decoder, tmp_path):
    model = decoder()
    at = next(i for i, node in enumerate(model.nodes) if node.output[0] == "y")
    model.nodes[at] = helper.make_node("GroupQueryAttention", ["q", "k", "v"], ["y"], "gqa", domain="com.microsoft")
    with pytest.raises(FrontendError, match=r"com\.microsoft::GroupQueryAttention gqa"):
        _canonical(model, tmp_path)


def test_the_mask_outside_attention_is_refused(decoder, tmp_path):
    model = decoder(mask="padded")
    model.nodes[-1].output[0] = "raw_logits"
    model.add("ReduceSum", ["attention_mask"], "tokens", keepdims=0)
    model.add("Cast", ["tokens"], "tokens_float", to=1)
    model.add("Mul", ["raw_logits", "tokens_float"], "logits")
    with pytest.raises(FrontendError, match="attention_mask is used outside"):
        _canonical(model, tmp_path)


def test_nodes_of_attention_elsewhere_are_refused(decoder, tmp_path):
    model = decoder()
    model.nodes[-1].output[0] = "raw_logits"
    model.nodes.append(helper.make_node("IsNaN", ["raw_logits"], ["nan"], name="check"))
    model.add("Where", ["nan", model.constant("nought", np.float32(0)), "raw_logits"], "logits")
    with pytest.raises(FrontendError, match="IsNaN check"):
        _canonical(model, tmp_path)
