"""Rewritings of an exported graph that change nothing it computes must change nothing that is recognised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
import tvm_ffi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from tvm import relax

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


def _swap_comparisons(model: onnx.ModelProto) -> None:
    """a < b becomes b > a."""
    turned = {"Less": "Greater", "Greater": "Less", "LessOrEqual": "GreaterOrEqual", "GreaterOrEqual": "LessOrEqual"}
    for node in model.graph.node:
        if node.op_type in turned:
            node.op_type = turned[node.op_type]
            node.input[:] = node.input[::-1]


def _insert_casts(model: onnx.ModelProto) -> None:
    """A Cast to float32 behind every product and sum that is float32 already."""
    nodes = []
    public = {info.name for info in model.graph.output}
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type in ("MatMul", "Softmax") and node.output[0] not in public:
            name, node.output[0] = node.output[0], f"{node.output[0]}_before_cast"
            nodes.append(helper.make_node("Cast", [node.output[0]], [name], to=onnx.TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _initializers_to_constants(model: onnx.ModelProto) -> None:
    """Small initialisers become Constant nodes."""
    small = [t for t in model.graph.initializer if np.prod(t.dims) < 100]
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in small]
    kept = [t for t in model.graph.initializer if np.prod(t.dims) >= 100]
    nodes += list(model.graph.node)
    for field, items in ((model.graph.initializer, kept), (model.graph.node, nodes)):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)


def _shuffle_nodes(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
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
    "mutation",
    [
        *(_rename, _anonymise, _insert_identities, _constants_to_initializers, _initializers_to_constants),
        *(_drop_shape_facts, _shuffle_nodes),
    ],
)
def test_the_module_is_the_same(exported, pair, tmp_path, name, mutation):
    imported = import_model(_mutate(exported, tmp_path, name, mutation))
    original = pair(name).imported
    assert tvm_ffi.structural_equal(imported.mod, original.mod, map_free_vars=True)
    assert [w.shape for w in imported.weights.values()] == [w.shape for w in original.weights.values()]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2-fp16"])
@pytest.mark.parametrize("mutation", [_swap_operands, _reverse_inputs, _swap_comparisons])
def test_the_same_is_recognised(exported, tmp_path, name, mutation):
    assert _kinds(_mutate(exported, tmp_path, name, mutation)) == _kinds(exported(name))


def _kinds(path):
    """What is left of a model: the kinds of its operations, and its layers, names aside."""
    canonical = canonicalise(build(load(path)), BUILDERS)
    layers = [dataclasses.replace(layer, node="", query="", residual="") for layer in canonical.layers]
    return sorted(node.kind for node in canonical.graph.nodes), layers


MUTATIONS = {
    mutation.__name__: mutation
    for mutation in (
        *(_rename, _anonymise, _insert_identities, _reverse_inputs, _swap_operands, _constants_to_initializers),
        *(_initializers_to_constants, _drop_shape_facts, _swap_comparisons, _insert_casts, _shuffle_nodes),
    )
}


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["llama", "mistral", "qwen2"]),
    mutations=st.lists(st.sampled_from(sorted(MUTATIONS)), min_size=2, max_size=5, unique=True),
)
def test_any_of_them_one_after_the_other(exported, tmp_path_factory, name, mutations):
    model = onnx.load(exported(name))
    for mutation in mutations:
        MUTATIONS[mutation](model)
    path = tmp_path_factory.mktemp("mutated") / "model.onnx"
    onnx.save(model, path)
    assert _kinds(path) == _kinds(exported(name))


@pytest.mark.parametrize("name", ["llama", "mistral", "mistral-14", "qwen2"])
def test_after_onnxruntimes_basic_optimisation(exported, pair, tmp_path, name):
    """The optimised file is what people save from onnxruntime; it computes what the original does."""
    path = tmp_path / "model.onnx"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(exported(name), options, providers=["CPUExecutionProvider"])
    _computes_the_same(path, pair(name))


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2"])
def test_after_onnxslim(exported, pair, tmp_path, name):
    onnxslim = pytest.importorskip("onnxslim", reason="simplified with the extra `dev`")
    path = tmp_path / "model.onnx"
    onnx.save(onnxslim.slim(onnx.load(exported(name))), path)
    _computes_the_same(path, pair(name))


def _without_names(layer):
    """What was understood of a layer, without the names that optimizers give to nodes and tensors."""
    return dataclasses.replace(layer, node="", query="", residual=""), bool(layer.query), bool(layer.residual)


def _computes_the_same(path, pair):
    imported = import_model(path)
    assert [_without_names(layer) for layer in imported.layers] == [
        _without_names(layer) for layer in pair.imported.layers
    ]
    executable = relax.build(imported.mod, tvm.target.Target("llvm"))
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    arguments = np.arange(10).reshape(2, 5), np.tile(np.arange(3, 8), (2, 1)), pair.cache(2, 3)
    tensors = [*arguments[:2], *arguments[2], *(weight.numpy() for weight in imported.weights.values())]
    found = main(*(tvm.runtime.tensor(np.ascontiguousarray(array)) for array in tensors))
    for result, expected in zip(found, pair.run(*arguments), strict=True):
        np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-4)
