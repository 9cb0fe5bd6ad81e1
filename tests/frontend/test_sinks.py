"""A logit per query head beside the scores is recognised, with or without the maximum taken off; nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tqc.errors import FrontendError
from tqc.frontend import import_model

SINKS = np.array([0.5, -1.0, 2.0, 0.0], np.float32)


def _with_sinks(
    model: onnx.ModelProto, *, maximum: bool, shape: tuple[int, ...] = (1, 4, 1, 1), keep: int = -1
) -> None:
    """Puts the sinks' column beside the scores of the only Softmax; `keep` is the end of the slice behind it."""
    graph = model.graph
    (at,) = [n for n, node in enumerate(graph.node) if node.op_type == "Softmax"]
    softmax = graph.node[at]
    constants = {
        "sinks": SINKS,
        "sinks_shape": np.array(shape, np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "last": np.array([keep], np.int64),
        "axis": np.array([-1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(array, f"s_{name}") for name, array in constants.items())
    before = [
        helper.make_node("Reshape", ["s_sinks", "s_sinks_shape"], ["s_row"]),
        helper.make_node("Shape", ["input_ids"], ["s_ids"]),
        helper.make_node("Gather", ["s_ids", "s_first"], ["s_batch"]),
        helper.make_node("Gather", ["s_ids", "s_second"], ["s_seq"]),
        helper.make_node("Concat", ["s_batch", "s_one", "s_seq", "s_one"], ["s_target"], axis=0),
        helper.make_node("Expand", ["s_row", "s_target"], ["s_column"]),
        helper.make_node("Concat", [softmax.input[0], "s_column"], ["s_joined"], axis=-1),
    ]
    if maximum:
        before.append(helper.make_node("ReduceMax", ["s_joined"], ["s_max"], axes=[-1]))
        before.append(helper.make_node("Sub", ["s_joined", "s_max"], ["s_shifted"]))
    softmax.input[0] = before[-1].output[0]
    after = helper.make_node("Slice", ["s_weights", "s_first", "s_last", "s_axis"], [softmax.output[0]])
    softmax.output[0] = "s_weights"
    nodes = [*graph.node[:at], *before, softmax, after, *graph.node[at + 1 :]]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _save(decoder, folder: Path, **options) -> Path:
    model = decoder().model()
    _with_sinks(model, **options)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("maximum", [False, True])
def test_equals_onnxruntime(decoder, pair_at, tmp_path, maximum):
    pair = pair_at(_save(decoder, tmp_path, maximum=maximum))
    assert pair.imported.layers[0].sinks
    tokens = np.random.default_rng(0).integers(0, decoder.vocab, (2, 5))
    positions = np.arange(7, 12)[None].repeat(2, 0)
    arguments = tokens, positions, pair.cache(2, 7)
    for ours, expected in zip(pair.run(*arguments), pair.onnx(*arguments), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_without_sinks_there_are_none(decoder, tmp_path):
    assert not import_model(decoder().save(tmp_path)).layers[0].sinks


@pytest.mark.parametrize("wrong", [{"keep": -2}, {"shape": (4, 1, 1, 1)}])
def test_refuses_what_only_looks_like_it(decoder, tmp_path, wrong):
    with pytest.raises(FrontendError):
        import_model(_save(decoder, tmp_path, maximum=False, **wrong))
