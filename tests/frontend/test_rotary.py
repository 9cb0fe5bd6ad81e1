"""Rotary embedding added by hand to the one-layer decoder, with positions from several sources and with faults."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import relax

from tqc.errors import FrontendError
from tqc.frontend import import_model
from tqc.frontend.build import build
from tqc.frontend.canonical import canonicalise
from tqc.frontend.load import load
from tqc.frontend.operators import BUILDERS

INV_FREQ = (1e4 ** (-np.arange(8) / 8)).astype(np.float32)


def _positions(model, source: str) -> str:
    if source == "input":
        return "position_ids"
    if source == "range":
        return model.add("Unsqueeze", ["queries_flat", model.ints(0)], "row")
    counted = model.add("CumSum", ["attention_mask", model.int(1)], "counted")
    numbered = model.add("Sub", [counted, model.int(1)], "numbered")
    first = model.add("Unsqueeze", ["past_size", model.ints(0)], "first_new")
    return model.add("Slice", [numbered, first, model.ints(1 << 40), model.ints(1)], "fresh")


def _rope(model, source: str, scaling: float, fault: str, halved: bool) -> None:
    """Puts rotary embedding on q and k; the nodes that use them come after. `halved` rotates the halves apart."""
    tail = model.nodes[model.nodes.index(_node(model, "present.0.key")) :]
    del model.nodes[-len(tail) :]
    mask = [node for node in tail if node.output[0] in ("past_size_shape", "past_size", "seq_size_shape", "seq_size")]
    mask += [node for node in tail if node.output[0] in ("total_size", "queries_flat")]
    model.nodes += mask
    column = model.add("Unsqueeze", [_positions(model, source), model.ints(2)], "column")
    position = model.add("Cast", [column], "position", to=TensorProto.FLOAT)
    angle = model.add("Mul", [position, model.constant("inv_freq", INV_FREQ)], "angle")
    if fault == "shifted":
        angle = model.add("Add", [angle, model.constant("half", np.float32(0.5))], "angle_shifted")
    if fault == "scaled-positions":
        angle = model.add("Mul", [angle, model.constant("half", np.float32(0.5))], "angle_half")
    double = angle if halved else model.add("Concat", [angle, angle], "double", axis=-1)
    for name in ("Cos", "Sin"):
        value = model.add(name, [double], f"{name}_raw")
        factor = scaling * (1.5 if fault == "uneven" and name == "Sin" else 1)
        value = model.add("Mul", [value, model.constant(f"scaling_{name}", np.float32(factor))], f"{name}_scaled")
        model.add("Unsqueeze", [value, model.ints(1)], name)
    for x in ("q", "k"):
        low, high = model.ints(0), model.ints(8)
        left = model.add("Slice", [x, low, high, model.ints(3)], f"{x}_left")
        right = model.add("Slice", [x, high, model.ints(1 << 40), model.ints(3)], f"{x}_right")
        if halved:
            _rotate_halves(model, x, left, right, fault)
            continue
        if fault == "sign":
            left = model.add("Neg", [left], f"{x}_left_negated")
        else:
            right = model.add("Neg", [right], f"{x}_right_negated")
        parts = [left, right] if fault == "halves" else [right, left]
        turned = model.add("Concat", parts, f"{x}_turned", axis=-1)
        cosine = model.add("Mul", [x, "Cos"], f"{x}_cos")
        sine = model.add("Mul", ["Sin", turned], f"{x}_sin")
        model.add("Add", [sine, cosine], f"{x}_rope")
    for node in tail:
        node.input[:] = [{"q": "q_rope", "k": "k_rope"}.get(name, name) for name in node.input]
    model.nodes += [node for node in tail if node not in mask]


def _rotate_halves(model, x: str, left: str, right: str, fault: str) -> None:
    """left·cos - right·sin beside right·cos + left·sin."""
    if fault == "halves":
        left, right = right, left
    part = {
        (n, f): model.add("Mul", [t, f], f"{x}_{n}_{f}") for n, t in (("l", left), ("r", right)) for f in ("Cos", "Sin")
    }
    first, second = ("r", "l") if fault == "sign" else ("l", "r")
    above = model.add("Sub", [part[first, "Cos"], part[second, "Sin"]], f"{x}_above")
    below = model.add("Add", [part["r", "Cos"], part["l", "Sin"]], f"{x}_below")
    model.add("Concat", [above, below], f"{x}_rope", axis=-1)


def _node(model, output: str):
    return next(node for node in model.nodes if output in node.output)


def _save(decoder, tmp_path, source: str = "input", scaling: float = 1.0, fault: str = "", halved: bool = False):
    model = decoder()
    _rope(model, source, scaling, fault, halved)
    proto = model.model()
    if source == "input":
        proto.graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "seq"]))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


def _graph(path):
    return canonicalise(build(load(path)), BUILDERS).graph


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("source", ["input", "range", "cumsum"])
@pytest.mark.parametrize("scaling", [1.0, 1.3125])
def test_positions_from_every_source(decoder, tmp_path, source, scaling, halved):
    graph = _graph(_save(decoder, tmp_path, source, scaling, halved=halved))
    ropes = [node for node in graph.nodes if node.kind == "tqc::Rope"]
    assert [node.inputs[0] for node in ropes] == ["q", "k"]
    for node in ropes:
        np.testing.assert_array_equal(graph.constants[node.inputs[1]], INV_FREQ)
        assert node.attrs["scaling"] == scaling
    assert not {"Cos", "Sin", "CumSum", "Range"} & {node.op for node in graph.nodes}


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("fault", ["sign", "halves", "uneven", "shifted", "scaled-positions"])
def test_other_rotations_stay_as_they_are(decoder, tmp_path, fault, halved):
    graph = _graph(_save(decoder, tmp_path, fault=fault, halved=halved))
    assert {"Cos", "Sin"} <= {node.op for node in graph.nodes}
    assert "tqc::Rope" not in {node.kind for node in graph.nodes}


def test_other_rotations_without_positions_are_refused(decoder, tmp_path):
    for source in ("range", "cumsum"):
        with pytest.raises(FrontendError, match="size arithmetic"):
            _graph(_save(decoder, tmp_path, source=source, fault="shifted"))


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("fault", ["", "shifted"])
def test_fused_and_unfused_equal_onnxruntime(decoder, tmp_path, fault, halved):
    path = _save(decoder, tmp_path, scaling=1.25, fault=fault, halved=halved)
    imported = import_model(path)
    random = np.random.default_rng(0)
    tokens, positions = random.integers(0, 40, (2, 4)), np.array([[3, 4, 5, 6], [100, 101, 102, 103]])
    cache = [random.standard_normal((2, 2, 3, 16), np.float32) for _ in range(2)]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = dict(zip(("past_key_values.0.key", "past_key_values.0.value"), cache, strict=True))
    feeds |= {"input_ids": tokens, "position_ids": positions, "attention_mask": np.ones((2, 7), np.int64)}
    expected = session.run(None, {entry.name: feeds[entry.name] for entry in session.get_inputs()})
    machine = relax.VirtualMachine(relax.build(imported.mod, tvm.target.Target("llvm")), tvm.cpu())
    weights = [weight.numpy() for weight in imported.weights.values()]
    found = machine["main"](*(tvm.runtime.tensor(a) for a in (tokens, positions, *cache, *weights)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=2e-5)


def test_angles_of_a_float16_file_are_computed_in_float32(decoder, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = _save(decoder, tmp_path)
    model = convert_float_to_float16(onnx.load(path), keep_io_types=False, disable_shape_infer=True)
    onnx.save(model, path)
    graph = _graph(path)
    ropes = [node for node in graph.nodes if node.kind == "tqc::Rope"]
    assert [node.inputs[0] for node in ropes] == ["q", "k"]
    frequencies = graph.constants[ropes[0].inputs[1]]
    assert frequencies.dtype == np.float32
    np.testing.assert_array_equal(frequencies, INV_FREQ.astype(np.float16))
