"""What every later step takes for granted of a graph's nodes, checked once: order, names, operands, attributes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto, numpy_helper

from tqc.errors import FrontendError

from .load import DTYPES


def _label(node: NodeProto) -> str:
    kind = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{kind} {node.name or next(iter(node.output), 'without a name')}"


def _refuse(what: str, node: NodeProto, **context: str) -> None:
    raise FrontendError(what, where=_label(node), hint="The file is damaged; export the model again.", **context)


@lru_cache(maxsize=4096)
def _schema(op: str, opset: int) -> Any:
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:  # onnxruntime has operations of its own in ONNX's domain
        return None


def _check(node: NodeProto, opset: int) -> None:
    """One node against its operation's definition, where ONNX has one."""
    if not node.output or not node.output[0]:
        _refuse("An operation has no output.", node)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if len(attributes) != len(node.attribute):
        _refuse("An operation has an attribute twice.", node)
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            try:
                numpy_helper.to_array(attribute.t)
            except (TypeError, ValueError) as error:
                _refuse("A tensor in an attribute cannot be read.", node, found=f"{attribute.name}: {error}")
    schema = _schema(node.op_type, opset) if node.domain in ("", "ai.onnx") else None
    if schema is None:
        return
    least = next((n for n in range(schema.min_input, 0, -1) if n > len(node.input) or not node.input[n - 1]), 0)
    if least or not schema.min_input <= len(node.input) <= schema.max_input:
        expected = f"{schema.min_input} to {min(schema.max_input, 99)}"
        _refuse("An operation has the wrong operands.", node, expected=expected, found=", ".join(node.input) or "none")
    if len(node.output) > schema.max_output:
        _refuse("An operation has too many outputs.", node, expected=f"at most {schema.max_output}")
    for name, known in schema.attributes.items():
        found = attributes.get(name)
        if found is None and known.required:
            _refuse("An operation lacks an attribute.", node, expected=name)
        if found is not None and found.type != int(known.type.value):
            _refuse("An attribute has the wrong type.", node, expected=f"{name}: {known.type.name}")
    for name in attributes:
        if name not in schema.attributes:
            _refuse("An operation has an unknown attribute.", node, found=name)
    if node.op_type in ("Cast", "CastLike") and "to" in attributes and attributes["to"].i not in DTYPES:
        _refuse("A cast to an unsupported type.", node, expected=", ".join(DTYPES.values()))


def _is_subgraph(node: NodeProto) -> bool:
    return any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)


def _in_order(nodes: Sequence[NodeProto], defined: set[str]) -> list[NodeProto]:
    """The nodes, each behind those that it reads from; those that are so already keep their order."""
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waiting = [
        len({producer[name] for name in node.input if name in producer and name not in defined}) for node in nodes
    ]
    readers: dict[int, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in node.input:
            if name in producer and name not in defined:
                readers.setdefault(producer[name], set()).add(index)
    ready, order = [index for index in range(len(nodes)) if not waiting[index]], []
    ready.reverse()
    while ready:
        index = ready.pop()
        order.append(nodes[index])
        for reader in sorted(readers.get(index, ()), reverse=True):
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(order) < len(nodes):
        _refuse("An operation depends on its own result.", next(n for n, w in zip(nodes, waiting, strict=True) if w))
    return order


def checked_nodes(graph: onnx.GraphProto, initializers: Iterable[str], opset: int) -> list[NodeProto]:
    """The graph's nodes, every one behind those that it reads from.

    Raises FrontendError, naming the node, for cycles, for tensors that two nodes define, and for operands, outputs and
    attributes that an operation's definition in ONNX does not have.
    """
    given = {*initializers, *(info.name for info in graph.input)}
    defined, sorted_already = set(given), True
    for node in graph.node:
        if not _is_subgraph(node):  # control flow is refused as such
            _check(node, opset)
        sorted_already &= all(name in defined or not name for name in node.input)
        for name in node.output:
            if name and name in defined:
                _refuse("A tensor is defined twice.", node, found=name)
            defined.add(name)
    for infos, what in ((graph.input, "input"), (graph.output, "output")):
        names = [info.name for info in infos]
        if doubles := sorted({name for name in names if names.count(name) > 1 or not name}):
            raise FrontendError(f"Two graph {what}s have one name, or one has none.", found=", ".join(doubles))
    return list(graph.node) if sorted_already else _in_order(graph.node, given)
