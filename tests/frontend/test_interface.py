from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from tqc.errors import FrontendError
from tqc.frontend.build import build
from tqc.frontend.interface import bind
from tqc.frontend.load import load


def _bind(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return bind(build(load(path)))


def _refusal(model, tmp_path) -> FrontendError:
    with pytest.raises(FrontendError) as caught:
        _bind(model, tmp_path)
    return caught.value


def _rename(model, old: str, new: str) -> None:
    graph = model.graph
    for info in (*graph.input, *graph.output):
        info.name = new if info.name == old else info.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _input(model, name: str):
    return next(info for info in model.graph.input if info.name == name)


def test_names_of_the_decoder(decoder, tmp_path):
    interface = _bind(decoder().model(), tmp_path)
    (layer,) = interface.layers
    assert (interface.mask, interface.positions, interface.logits) == ("attention_mask", "", "logits")
    assert (layer.past_key, layer.present_value) == ("past_key_values.0.key", "present.0.value")
    assert (layer.kv_heads, layer.head_dim, layer.dtype) == (2, 16, "float32")


@pytest.mark.parametrize(
    ("past", "present"),
    [("past_key_values.0.{}", "present_key_values.0.{}"), ("past_{}_0", "present_{}_0"), ("past.0.{}", "present.0.{}")],
)
def test_other_spellings_and_orders(decoder, tmp_path, past, present):
    model = decoder().model()
    for side in ("key", "value"):
        _rename(model, f"past_key_values.0.{side}", past.format(side))
        _rename(model, f"present.0.{side}", present.format(side))
    inputs = list(model.graph.input)[::-1]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    (layer,) = _bind(model, tmp_path).layers
    assert (layer.past_key, layer.present_key) == (past.format("key"), present.format("key"))


def test_two_inputs_for_the_same_cache_tensor(decoder, tmp_path):
    model = decoder().model()
    twin = model.graph.input.add()
    twin.CopyFrom(_input(model, "past_key_values.0.key"))
    twin.name = "past_key_0"
    error = _refusal(model, tmp_path)
    assert "same cache tensor" in error.what
    assert error.found == "past_key_values.0.key, past_key_0"


def test_a_key_without_its_value(decoder, tmp_path):
    model = decoder().model()
    model.graph.input.remove(_input(model, "past_key_values.0.value"))
    error = _refusal(model, tmp_path)
    assert error.found == "no value of layer 0"


def test_a_gap_between_layers(decoder, tmp_path):
    model = decoder().model()
    for side in ("key", "value"):
        _rename(model, f"past_key_values.0.{side}", f"past_key_values.1.{side}")
    assert "no key of layer 0" in _refusal(model, tmp_path).found


def test_a_present_output_is_missing(decoder, tmp_path):
    model = decoder().model()
    model.graph.output.remove(next(info for info in model.graph.output if info.name == "present.0.key"))
    assert "Cache outputs are missing" in _refusal(model, tmp_path).what


def test_no_cache_at_all(decoder, tmp_path):
    model = decoder().model()
    for side in ("key", "value"):
        _rename(model, f"past_key_values.0.{side}", f"memory_{side}")
        model.graph.input.remove(_input(model, f"memory_{side}"))
    error = _refusal(model, tmp_path)
    assert error.what == "The model has no cache inputs."
    assert "with past" in error.hint


def test_unknown_inputs_are_all_named(decoder, tmp_path):
    model = decoder().model()
    for name in ("use_cache_branch", "token_type_ids"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"]))
    assert _refusal(model, tmp_path).found == "token_type_ids, use_cache_branch"


def test_a_surplus_output(decoder, tmp_path):
    model = decoder().model()
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    assert "Unknown graph outputs" in _refusal(model, tmp_path).what


@pytest.mark.parametrize("dim", [8, 24, 72, 100, 528])
def test_head_dims_that_no_kernel_takes(decoder, tmp_path, dim):
    error = _refusal(decoder(dim=dim).model(), tmp_path)
    assert error.what == "Unsupported head_dim."
    assert error.found == str(dim)
    assert "layer 0" in error.where


@pytest.mark.parametrize("dim", [16, 48, 80, 512])
def test_head_dims_in_range(decoder, tmp_path, dim):
    assert _bind(decoder(dim=dim).model(), tmp_path).layers[0].head_dim == dim


@pytest.mark.parametrize(("axis", "size"), [(0, 1), (2, 128)])
def test_fixed_batch_or_past(decoder, tmp_path, axis, size):
    model = decoder().model()
    _input(model, "past_key_values.0.value").type.tensor_type.shape.dim[axis].dim_value = size
    assert "dynamic" in _refusal(model, tmp_path).what


def test_symbolic_heads(decoder, tmp_path):
    model = decoder().model()
    _input(model, "past_key_values.0.key").type.tensor_type.shape.dim[1].dim_param = "heads"
    assert "unexpected shape" in _refusal(model, tmp_path).what


def test_keys_and_values_differ(decoder, tmp_path):
    model = decoder().model()
    _input(model, "past_key_values.0.value").type.tensor_type.shape.dim[3].dim_value = 32
    assert "differ" in _refusal(model, tmp_path).what


def test_integer_cache(decoder, tmp_path):
    model = decoder().model()
    for side in ("key", "value"):
        _input(model, f"past_key_values.0.{side}").type.tensor_type.elem_type = TensorProto.INT8
    assert _refusal(model, tmp_path).found == "int8"
