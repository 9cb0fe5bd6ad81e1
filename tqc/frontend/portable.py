"""A model as onnxruntime's CPU kernels can run it: what only its GPU kernels have is written out.

GroupQueryAttention takes norms of queries and keys, and caches that hold a window, on some devices only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .load import LoadedModel

_KIND = ("com.microsoft", "GroupQueryAttention")
_QUERY, _KEY, _VALUE, _NORMS = 0, 1, 2, (14, 15)
_WINDOWED = "sliding_window_cache"


def portable(model: LoadedModel) -> LoadedModel:
    """An equivalent model, or `model` itself where there is nothing to write out.

    Past keys and values are whole in it, in layers with a window too. Weights stay where they are.
    """
    if not any(_needs(node) for node in model.proto.graph.node):
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = [part for node in model.proto.graph.node for part in (_written(node, model) if _needs(node) else [node])]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return replace(model, proto=proto)


def _needs(node: onnx.NodeProto) -> bool:
    windowed = any(attribute.name == _WINDOWED and attribute.i for attribute in node.attribute)
    return (node.domain, node.op_type) == _KIND and (windowed or _weights(node) != ["", ""])


def _weights(node: onnx.NodeProto) -> list[str]:
    return [node.input[index] if index < len(node.input) else "" for index in _NORMS]


def _written(source: onnx.NodeProto, model: LoadedModel) -> list[onnx.NodeProto]:
    node = onnx.NodeProto()
    node.CopyFrom(source)
    attrs = {attribute.name: helper.get_attribute_value(attribute) for attribute in source.attribute}
    weights = _weights(source)
    norms = all(weight in model.initializers for weight in weights)
    dropped = [_WINDOWED, *((key for key in attrs if key.endswith("norm_epsilon")) if norms else ())]
    kept = [attribute for attribute in source.attribute if attribute.name not in dropped]
    del node.attribute[:]
    node.attribute.extend(kept)
    if not norms:
        return [node]
    made: list[onnx.NodeProto] = []
    del node.input[_NORMS[0] :]
    name = source.output[0]

    def add(op: str, inputs: list[str], outputs: list[str], **options) -> str:
        made.append(helper.make_node(op, inputs, outputs, f"{name}/portable_{len(made)}", **options))
        return outputs[0]

    def ints(label: str, *values: int) -> str:
        value = numpy_helper.from_array(np.array(values, np.int64))
        return add("Constant", [], [f"{name}/{label}"], value=value)

    dim = model.initializers[weights[0]].shape[0]
    if not node.input[_KEY]:
        heads, kv_heads = attrs["num_heads"], attrs["kv_num_heads"]
        parts = [f"{name}/{side}" for side in ("query", "key", "value")]
        add("Split", [node.input[_QUERY], ints("sizes", heads * dim, kv_heads * dim, kv_heads * dim)], parts, axis=-1)
        node.input[_QUERY], node.input[_KEY], node.input[_VALUE] = parts
    for index, side, weight in zip((_QUERY, _KEY), "qk", weights, strict=True):
        epsilon = attrs.get(f"{side}_norm_epsilon", attrs.get("qk_norm_epsilon", 1e-6))
        apart = add("Reshape", [node.input[index], ints(f"{side}_heads", 0, 0, -1, dim)], [f"{name}/{side}_apart"])
        options = {"axis": -1, "stash_type": 1, "epsilon": epsilon}
        normed = add("SimplifiedLayerNormalization", [apart, weight], [f"{name}/{side}_normed"], **options)
        node.input[index] = add("Reshape", [normed, ints(f"{side}_flat", 0, 0, -1)], [f"{name}/{side}"])
    return [*made, node]
