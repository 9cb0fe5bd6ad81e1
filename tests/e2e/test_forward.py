"""Models without a cache: what the artifact computes beside onnxruntime, keys and values replaced by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import tqc
from tqc.codec import get
from tqc.errors import CodecError, FrontendError, PassError, SessionError

blocks = pytest.importorskip("blocks", reason="models are exported with the extra `export`")

CASES = [(kind, form) for kind in ("layer", "encoder") for form in blocks.FORMS if (kind, form) != ("encoder", "gqa23")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("blocks"), {}

    def export(kind, form):
        if (kind, form) not in made:
            made[kind, form] = blocks.export(kind, form, folder / f"{kind}-{form}.onnx")
        return made[kind, form]

    return export


def feeds(kind, batch=3, seq=11):
    random = np.random.default_rng(0)
    if kind == "layer":
        return {"x": random.standard_normal((batch, seq, blocks.HIDDEN), np.float32)}
    mask = np.ones((batch, seq), np.int64)
    mask[-1, 7:] = 0
    return {"input_ids": random.integers(0, 99, (batch, seq)), "attention_mask": mask}


def onnx_run(model, inputs):
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(
    ("kind", "form"), [("layer", "legacy17"), ("layer", "gqa23"), ("encoder", "legacy17"), ("encoder", "dynamo18")]
)
def test_exact_keys_and_values(kind, form, exported, compiled):
    artifact = tqc.load(compiled(exported(kind, form), kv="fp32"))
    assert len(artifact.manifest.forward.attention) == 1
    for sizes in ((3, 11), (1, 1), (2, 40)):
        inputs = feeds(kind, *sizes)
        actual = artifact.forward(**inputs)["y"]
        np.testing.assert_allclose(actual, onnx_run(exported(kind, form), inputs), atol=1e-4, rtol=0)


def with_codes(path, inputs, schemes):
    """What onnxruntime computes when K and V have gone through the codec: between two runs the fresh keys and values
    are read, coded in NumPy, and put in their place. K and V are the products of the two projections."""
    proto = onnx.load(path)
    producer = {name: node for node in proto.graph.node for name in node.output}
    tensors = [projection(proto, producer, side) for side in ("k", "v")]
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    replaced = {}
    for name, scheme, value in zip(tensors, schemes, session.run(tensors, inputs), strict=True):
        codec = get(scheme, blocks.DIM)
        vectors = value.reshape(*value.shape[:2], -1, blocks.DIM)
        coded = codec.decode(codec.encode(vectors)).reshape(value.shape)
        replaced[f"{name}/coded"] = coded
        for node in proto.graph.node:
            for index, operand in enumerate(node.input):
                if operand == name:
                    node.input[index] = f"{name}/coded"
        proto.graph.input.append(helper.make_tensor_value_info(f"{name}/coded", onnx.TensorProto.FLOAT, coded.shape))
    return onnx_run(proto, inputs | replaced)


def projection(proto, producer, side):
    """The sum of x·w and the bias of the projection to keys or values, [batch, seq, heads·dim]."""
    names = {"k": ("k.bias", "self.key.bias"), "v": ("v.bias", "self.value.bias")}[side]
    for node in proto.graph.node:
        if node.op_type in ("Add", "Gemm") and any(t.endswith(names) for t in node.input):
            return node.output[0]
    raise AssertionError(f"no projection {side} in {[t.name for t in proto.graph.initializer]}")


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_coded_keys_and_values(kind, form, exported, compiled):
    inputs = feeds(kind)
    actual = tqc.load(compiled(exported(kind, form), kv="k4v2")).forward(**inputs)["y"]
    expected = with_codes(exported(kind, form), inputs, ("tq4", "tq2"))
    exact = onnx_run(exported(kind, form), inputs)
    assert np.abs(expected - exact).max() > 0.01
    np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("k", "v"), [("qjl2", "tqp3"), ("tqp4", "polar"), ("polar-plain", "bf16")])
def test_every_kind_of_code(k, v, exported, compiled):
    path, inputs = exported("layer", "legacy17"), feeds("layer")
    actual = tqc.load(compiled(path, kv=f"k:{k},v:{v}")).forward(**inputs)["y"]
    expected = with_codes(path, inputs, (k, v))
    assert np.abs(expected - onnx_run(path, inputs)).max() > 0.01
    np.testing.assert_allclose(actual, expected, atol=1e-3, rtol=0)


def test_rejects_schemes_that_need_a_measured_basis(exported, compiled):
    with pytest.raises(CodecError, match="needs a basis"):
        compiled(exported("layer", "legacy17"), kv="16@3")


@pytest.fixture
def layer(exported, compiled):
    return tqc.load(compiled(exported("layer", "legacy17"), kv="fp32"))


def test_has_no_cache_functions(layer):
    for call in (layer.prefill, layer.decode, layer.generate):
        with pytest.raises(SessionError, match="without a cache"):
            call([1])
    with pytest.raises(SessionError, match="takes no batch"):
        tqc.load(layer.path, batch=2)


def test_a_decoder_has_no_forward(tiny_llama_onnx, compiled):
    with pytest.raises(SessionError, match="has no forward"):
        tqc.load(compiled(tiny_llama_onnx, kv="fp32", max_context=512)).forward(x=1)


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({}, "not those of the model"),
        ({"x": np.zeros((1, 2, 64), np.float64)}, "another type"),
        ({"x": np.zeros((1, 2), np.float32)}, "number of axes"),
        ({"x": np.zeros((1, 2, 65), np.float32)}, "another size"),
        ({"x": np.zeros((1, 0, 64), np.float32)}, "another size"),
    ],
)
def test_rejects_inputs(layer, inputs, what):
    with pytest.raises(SessionError, match=what):
        layer.forward(**inputs)


def test_rejects_inputs_that_differ_or_leave_the_models_tables(exported, compiled):
    encoder = tqc.load(compiled(exported("encoder", "legacy17"), kv="fp32"))
    inputs = feeds("encoder")
    with pytest.raises(SessionError, match="differ in a size"):
        encoder.forward(**(inputs | {"attention_mask": inputs["attention_mask"][:, :5]}))
    with pytest.raises(SessionError, match="another size"):  # 64 positions
        encoder.forward(**feeds("encoder", 1, 65))


def test_rejects_options_of_a_cache(exported, tmp_path):
    with pytest.raises(PassError, match="the model has none"):
        tqc.compile(exported("layer", "legacy17"), tmp_path / "a.tqc", sinks=7)


def test_rejects_a_model_without_attention(tmp_path):
    info = [helper.make_tensor_value_info(name, 1, ["b", 16]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(FrontendError, match="neither cache inputs nor attention"):
        tqc.compile(tmp_path / "m.onnx", tmp_path / "a.tqc")


def test_inspect_and_verify_show_it(layer):
    from typer.testing import CliRunner

    from tqc.cli.main import app

    def run(*words):
        return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "120"})

    shown = run("inspect", layer.path)
    assert shown.exit_code == 0, shown.output
    assert "1 attention without a cache: head_dim 16, K through fp32, V through fp32" in shown.output
    assert "batch, seq, 64" in shown.output
    assert run("verify", layer.path).exit_code == 0
    refused = run("generate", layer.path, "--prompt", "x")
    assert "without a cache cannot generate" in str(refused.exception)
