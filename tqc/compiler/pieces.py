"""Runs an ONNX model piece by piece, each with so few weights that a model of any size fits in memory.

The graph is cut, in topological order, wherever the next node's weights would be too many; every piece is an
onnxruntime session of its own that maps its weights from the model's files, and is gone, its mapped pages with it,
before the next one starts. Only the tensors that later pieces read are kept in between. onnxruntime neither rewrites
the pieces nor packs their weights, so what a node computes does not depend on where the graph is cut. (In float16 it
does in the last digits: onnxruntime computes most of it in float32, and rounds only what leaves a piece.)
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from tqc.frontend.dtypes import widen_attributes
from tqc.frontend.load import LoadedModel
from tqc.frontend.weights import FileTensor

LIMIT = 128 << 20
"""Bytes of weights in a piece; a node that reads more is a piece by itself."""


@dataclass(frozen=True)
class Piece:
    """Consecutive nodes: the tensors they read from outside and those that are read later, and their initialisers."""

    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]


def cut(model: LoadedModel, wanted: Sequence[str], limit: int = LIMIT) -> list[Piece]:
    """The pieces that compute the tensors `wanted`, with at most `limit` bytes of initialisers each.

    A node that reads more than `limit` stands alone. Nodes that nothing wanted depends on are left out.
    """
    sizes = {name: math.prod(t.shape) * np.dtype(t.dtype).itemsize for name, t in model.initializers.items()}
    runs: list[list[onnx.NodeProto]] = []
    held: set[str] = set()
    for node in _ordered(model.proto.graph, wanted):
        read = {name for name in node.input if name in sizes}
        if not runs or (read - held and sum(sizes[name] for name in held | read) > limit):
            runs.append([])
            held = set()
        runs[-1].append(node)
        held |= read
    later, pieces = set(wanted), []
    for nodes in reversed(runs):
        made = {name for node in nodes for name in node.output if name}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        inputs = tuple(name for name in read if name not in sizes)
        outputs = tuple(name for node in nodes for name in node.output if name in later)
        pieces.append(Piece(tuple(nodes), inputs, outputs, tuple(name for name in read if name in sizes)))
        later = (later - made) | set(inputs)
    return pieces[::-1]


def _ordered(graph: onnx.GraphProto, wanted: Sequence[str]) -> Iterator[onnx.NodeProto]:
    """What `wanted` needs, each node as late as possible: few tensors wait for their readers, and no weight does."""
    producer = {name: node for node in graph.node for name in node.output if name}
    opened: set[int] = set()
    done: set[int] = set()
    stack = [producer[name] for name in reversed(wanted) if name in producer]
    while stack:
        node = stack[-1]
        if id(node) not in opened:
            opened.add(id(node))
            sources = [producer[name] for name in reversed(node.input) if name in producer]
            stack.extend(source for source in sources if id(source) not in opened)
            continue
        stack.pop()
        if id(node) not in done:
            done.add(id(node))
            yield node


def run(
    model: LoadedModel, feeds: Mapping[str, ort.OrtValue], wanted: Sequence[str], limit: int = LIMIT
) -> Iterator[tuple[str, np.ndarray]]:
    """Computes the tensors `wanted` from the graph's inputs; gives each, once, as soon as it is known.

    Errors of onnxruntime pass through; they share no class of their own.
    """
    stored = {proto.name: proto for proto in model.proto.graph.initializer}
    pieces = cut(model, wanted, limit)
    last = {name: index for index, piece in enumerate(pieces) for name in piece.inputs}
    live = dict(feeds)
    for index, piece in enumerate(pieces):
        tensors = [_located(stored[name], model) for name in piece.initializers]
        results = _run_piece(piece, tensors, live, model.proto)
        live |= results
        for name in piece.outputs:
            if name in wanted:
                yield name, live[name].numpy()
        live = {name: value for name, value in live.items() if last.get(name, -1) > index}


def whole(
    model: LoadedModel, feeds: Mapping[str, ort.OrtValue], wanted: Sequence[str]
) -> Callable[[Mapping[str, ort.OrtValue]], list[np.ndarray]]:
    """The model in one session that stays, with all its weights: a function of inputs like `feeds`, for many runs.

    Errors of onnxruntime pass through.
    """
    stored = {proto.name: proto for proto in model.proto.graph.initializer}
    (piece,) = cut(model, wanted, sys.maxsize)
    tensors = [_located(stored[name], model) for name in piece.initializers]
    options = _options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = _session(piece, tensors, {name: feeds[name] for name in piece.inputs}, model.proto, options)

    def compute(values: Mapping[str, ort.OrtValue]) -> list[np.ndarray]:
        found = session.run_with_ort_values(list(wanted), {name: values[name] for name in piece.inputs})
        return [value.numpy() for value in found]

    return compute


def _run_piece(
    piece: Piece, tensors: list[TensorProto], live: Mapping[str, ort.OrtValue], whole: onnx.ModelProto
) -> dict[str, ort.OrtValue]:
    feeds = {name: live[name] for name in piece.inputs}
    session = _session(piece, tensors, feeds, whole, _options())
    return dict(zip(piece.outputs, session.run_with_ort_values(list(piece.outputs), feeds), strict=True))


def _session(
    piece: Piece,
    tensors: list[TensorProto],
    feeds: Mapping[str, ort.OrtValue],
    whole: onnx.ModelProto,
    options: ort.SessionOptions,
) -> ort.InferenceSession:
    inputs = [helper.make_tensor_value_info(n, value.element_type(), value.shape()) for n, value in feeds.items()]
    outputs = [helper.make_empty_tensor_value_info(name) for name in piece.outputs]
    nodes = [*_widening(tensors), *map(widen_attributes, piece.nodes)]
    graph = helper.make_graph(nodes, "piece", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _widening(tensors: list[TensorProto]) -> list[onnx.NodeProto]:
    """Renames bfloat16 tensors and gives the casts that widen them: few of onnxruntime's CPU kernels take them."""
    casts = []
    for tensor in tensors:
        if tensor.data_type == TensorProto.BFLOAT16:
            wide, tensor.name = tensor.name, f"{tensor.name}/bfloat16"
            casts.append(helper.make_node("Cast", [tensor.name], [wide], to=TensorProto.FLOAT))
    return casts


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A piece runs once: neither packed copies of its weights nor memory kept for another run pay.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", _ROOT)
    return options


_ROOT = Path.cwd().anchor


def _located(tensor: TensorProto, model: LoadedModel) -> TensorProto:
    """The initialiser with its place in a file, told from the root, in place of its data."""
    source = model.initializers[tensor.name].source
    if not isinstance(source, FileTensor):
        return TensorProto.FromString(tensor.SerializeToString())
    size = math.prod(source.shape) * np.dtype(source.dtype).itemsize
    stub = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    place = {"location": source.path.resolve().relative_to(_ROOT).as_posix(), "offset": source.offset, "length": size}
    for key, value in place.items():
        stub.external_data.add(key=key, value=str(value))
    return stub
