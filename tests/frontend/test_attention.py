from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS

ONE = np.float32(1)


def _canonical(model, tmp_path):
    return canonicalise(build(load(model.save(tmp_path))), BUILDERS)


def _refusal(model, tmp_path) -> FrontendError:
    with pytest.raises(FrontendError) as caught:
        _canonical(model, tmp_path)
    return caught.value


def _node(model, output: str):
    return next(node for node in model.nodes if output in node.output)


def _after(model, output: str, *nodes) -> None:
    at = model.nodes.index(_node(model, output)) + 1
    model.nodes[at:at] = nodes


@pytest.mark.parametrize(("repeat", "kv_heads"), [("expand", 2), ("none", 4)])
def test_grouped_and_plain_heads(decoder, tmp_path, repeat, kv_heads):
    (layer,) = _canonical(decoder(repeat=repeat), tmp_path).layers
    assert (layer.query_heads, layer.kv_heads, layer.head_dim) == (4, kv_heads, 16)
    assert layer.scale == pytest.approx(0.3)


def test_heads_repeated_in_another_order_are_refused(decoder, tmp_path):
    error = _refusal(decoder(repeat="tile"), tmp_path)
    assert "not repeated over consecutive query heads" in error.found
    assert "node_weights" in error.found


def test_scales_on_every_side_multiply(decoder, tmp_path):
    model = decoder()
    half, double = model.constant("half", 0.5 * ONE), model.constant("double", 2 * ONE)
    _node(model, "raw").input[:] = ["q_scaled", "k_scaled"]
    _after(model, "q", helper.make_node("Mul", [half, "q"], ["q_scaled"]))
    _after(model, "keys_turned", helper.make_node("Div", ["keys_turned", double], ["k_scaled"]))
    (layer,) = _canonical(model, tmp_path).layers
    assert layer.scale == pytest.approx(0.3 / 4)


def test_softcap(decoder, tmp_path):
    model = decoder()
    cap = model.constant("cap", 5 * ONE)
    _after(
        model,
        "s",
        helper.make_node("Div", ["s", cap], ["s_small"]),
        helper.make_node("Tanh", ["s_small"], ["s_tanh"]),
        helper.make_node("Mul", ["s_tanh", cap], ["s_capped"]),
    )
    _node(model, "masked").input[0] = "s_capped"
    (layer,) = _canonical(model, tmp_path).layers
    assert (layer.scale, layer.softcap) == (pytest.approx(0.3), pytest.approx(5))


def test_a_mask_before_the_softcap_is_refused(decoder, tmp_path):
    """The softcap makes -cap of minus infinity: such a graph sees the masked keys after all."""
    model = decoder(mask="select")
    cap = model.constant("cap", 5 * ONE)
    _after(
        model,
        "masked",
        helper.make_node("Div", ["masked", cap], ["small"]),
        helper.make_node("Tanh", ["small"], ["tanh"]),
        helper.make_node("Mul", ["tanh", cap], ["capped"]),
    )
    _node(model, "weights").input[0] = "capped"
    assert "its scores come from Where" in _refusal(model, tmp_path).found


def test_no_attention(decoder, tmp_path):
    model = decoder()
    weights = _node(model, "weights")
    weights.op_type = "Sigmoid"
    del weights.attribute[:]
    error = _refusal(model, tmp_path)
    assert error.what == "No attention found."


def test_scaled_values_are_refused(decoder, tmp_path):
    model = decoder()
    half = model.constant("half", 0.5 * ONE)
    _after(model, "present.0.value_repeated", helper.make_node("Mul", ["present.0.value_repeated", half], ["v2"]))
    _node(model, "y").input[1] = "v2"
    assert "values are scaled" in _refusal(model, tmp_path).found


def test_keys_that_are_not_the_cache_are_refused(decoder, tmp_path):
    model = decoder()
    _node(model, "present.0.key").input[:] = ["k", "past_key_values.0.key"]
    assert "not concatenated to a past input" in _refusal(model, tmp_path).found


def test_swapped_cache_is_refused(decoder, tmp_path):
    model = decoder()
    _node(model, "present.0.key").input[0] = "past_key_values.0.value"
    _node(model, "present.0.value").input[0] = "past_key_values.0.key"
    assert "not concatenated to a past input" in _refusal(model, tmp_path).found


def test_keys_turned_the_wrong_way_are_refused(decoder, tmp_path):
    """With dim == total the product would run, on the wrong axes: values decide, not shapes."""
    model = decoder()
    _node(model, "keys_turned").attribute[0].ints[:] = [1, 0, 3, 2]
    with pytest.raises(FrontendError):
        _canonical(model, tmp_path)


def test_a_softmax_elsewhere_is_named(decoder, tmp_path):
    model = decoder()
    last = model.nodes.pop()
    model.nodes.append(helper.make_node("Softmax", ["residual"], ["gate"], name="router"))
    model.nodes.append(helper.make_node("MatMul", ["gate", last.input[1]], ["logits"]))
    error = _refusal(model, tmp_path)
    assert error.what == "Attention that is not understood."
    assert "router" in error.found


def test_two_uses_of_the_probabilities_are_refused(decoder, tmp_path):
    model = decoder()
    _node(model, "masked").input[0] = "s"
    _after(model, "y", helper.make_node("MatMul", ["weights", "present.0.key_repeated"], ["y2"]))
    _after(model, "y2", helper.make_node("Add", ["y", "y2"], ["both"]))
    _node(model, "joined").input[0] = "both"
    assert "2 users" in _refusal(model, tmp_path).found


def test_a_softmax_over_queries_is_refused(decoder, tmp_path):
    model = decoder()
    _node(model, "weights").attribute[0].i = 2
    assert "axis 2" in _refusal(model, tmp_path).found


@pytest.mark.parametrize("scale", [-0.3, 0.0, np.inf])
def test_scales_that_make_no_sense_are_refused(decoder, tmp_path, scale):
    model = decoder()
    _node(model, "s").input[1] = model.constant("odd_scale", np.float32(scale))
    assert "its scale is" in _refusal(model, tmp_path).found


def test_a_scale_that_is_no_number_is_refused(decoder, tmp_path):
    model = decoder()
    _node(model, "s").input[1] = model.constant("odd_scale", np.float32(np.nan))
    error = _refusal(model, tmp_path)
    assert (error.what, error.found) == ("A constant is not a number.", "odd_scale")


def test_a_cache_that_is_widened_before_it_grows(decoder, pair_at, tmp_path):
    """Some float16 exports go on in float32 from the first attention on: their presents no longer fit their pasts."""
    model = decoder().model()
    for info in model.graph.input:
        if info.name.startswith("past"):
            info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for node in list(model.graph.node):
        if node.op_type == "Concat" and node.input[0].startswith("past"):
            wide = f"{node.input[0]}/wide"
            model.graph.node.insert(0, helper.make_node("Cast", [node.input[0]], [wide], to=onnx.TensorProto.FLOAT))
            node.input[0] = wide
    onnx.save(model, tmp_path / "model.onnx")
    pair = pair_at(tmp_path / "model.onnx")
    assert pair.imported.dtype == "float16"
    tokens, positions = np.arange(6).reshape(2, 3), np.arange(4, 7)[None].repeat(2, 0)
    cache = pair.cache(2, 4)
    found, expected = pair.run(tokens, positions, cache), pair.onnx(tokens, positions, cache)
    assert [array.dtype for array in found[1:]] == [np.float16] * 2
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.01)
