"""Rewritings of an exported graph that change nothing it computes must change nothing that is recognised."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import tvm_ffi
from onnx import helper

from tqc.frontend import import_model
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS

KEPT = {"input_ids", "attention_mask", "position_ids", "logits"}


def _is_public(name: str) -> bool:
    return name in KEPT or name.startswith(("past_key_values.", "present."))


def _rename(model: onnx.ModelProto) -> None:
    """Every private tensor and every node gets a name that says nothing."""
    names: dict[str, str] = {"": ""}

    def new(name: str) -> str:
        return name if _is_public(name) else names.setdefault(name, f"t{len(names)}")

    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)


def _anonymise(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def _insert_identities(model: onnx.ModelProto) -> None:
    """An Identity on every operand of every node."""
    nodes = []
    for number, node in enumerate(model.graph.node):
        for index, name in enumerate(node.input):
            if name:
                nodes.append(helper.make_node("Identity", [name], [f"copy_{number}_{index}"]))
                node.input[index] = f"copy_{number}_{index}"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _reverse_inputs(model: onnx.ModelProto) -> None:
    for field in (model.graph.input, model.graph.output, model.graph.initializer):
        items = list(field)[::-1]
        del field[:]
        field.extend(items)


def _swap_operands(model: onnx.ModelProto) -> None:
    """Both operands of sums and products; addition and multiplication commute."""
    for node in model.graph.node:
        if node.op_type in ("Add", "Mul") and len(node.input) == 2:
            node.input[:] = [node.input[1], node.input[0]]


def _constants_to_initializers(model: onnx.ModelProto) -> None:
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_shape_facts(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")


def _mutate(exported, tmp_path, name: str, mutation: Callable[[onnx.ModelProto], None]):
    model = onnx.load(exported(name))
    mutation(model)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-fp16"])
@pytest.mark.parametrize(
    "mutation", [_rename, _anonymise, _insert_identities, _constants_to_initializers, _drop_shape_facts]
)
def test_the_module_is_the_same(exported, pair, tmp_path, name, mutation):
    imported = import_model(_mutate(exported, tmp_path, name, mutation))
    original = pair(name).imported
    assert tvm_ffi.structural_equal(imported.mod, original.mod, map_free_vars=True)
    assert [w.shape for w in imported.weights.values()] == [w.shape for w in original.weights.values()]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-fp16"])
@pytest.mark.parametrize("mutation", [_swap_operands, _reverse_inputs])
def test_the_same_is_recognised(exported, tmp_path, name, mutation):
    def kinds(path):
        canonical = canonicalise(build(load(path)), BUILDERS)
        return sorted(node.kind for node in canonical.graph.nodes), canonical.layers

    assert kinds(_mutate(exported, tmp_path, name, mutation)) == kinds(exported(name))
