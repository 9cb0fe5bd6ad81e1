"""Splits an ONNX file into its structure and its big tensors, without reading the tensors.

Walks the protobuf wire format only as far as `ModelProto.graph.initializer` and copies everything except large
`raw_data` fields, so that a model of many gigabytes costs the memory of its graph alone.
Field numbers: onnx.proto3 (ModelProto, GraphProto, TensorProto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_GRAPH, _INITIALIZER, _SPARSE_INITIALIZER, _TENSOR_NAME, _RAW_DATA = 7, 5, 15, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

KEEP_INLINE = 4096
"""Initialisers of at most this many bytes stay in the structure."""


class WireError(ValueError):
    """The bytes are not a complete protobuf message."""


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, where the field begins, and the span of its payload."""

    number: int
    wire_type: int
    begin: int
    start: int
    end: int


def _varint(data, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError("ends inside a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError("holds a number of more than 64 bits")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(data, at: int, end: int) -> Iterator[Field]:
    while at < end:
        begin = at
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            start = at
            _, at = _varint(data, at, end)
        elif wire_type == _BYTES:
            size, start = _varint(data, at, end)
            at = start + size
        elif wire_type in (_FIXED64, _FIXED32):
            start = at
            at += 8 if wire_type == _FIXED64 else 4
        else:
            raise WireError(f"holds a field of unknown wire type {wire_type}")
        if number == 0:
            raise WireError("holds a field numbered 0")
        if at > end:
            raise WireError("ends inside a field")
        yield Field(number, wire_type, begin, start, at)


def _nested(number: int, payload: bytes) -> bytes:
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(payload)) + payload


def _strip_tensor(data, tensor: Field, spans: dict[str, tuple[int, int]]) -> bytes:
    parts, name, raw = [], "", None
    for field in _fields(data, tensor.start, tensor.end):
        if field.number == _RAW_DATA and field.end - field.start > KEEP_INLINE:
            raw = field
            continue
        if field.number == _TENSOR_NAME:
            name = bytes(data[field.start : field.end]).decode("utf-8", "replace")
        parts.append(bytes(data[field.begin : field.end]))
    if raw is not None:
        spans[name] = (raw.start, raw.end - raw.start)
    return b"".join(parts)


@dataclass(frozen=True)
class Skeleton:
    """`structure`: the model without its big tensors; `spans`: name → (offset, length) of each in the file."""

    structure: bytes
    spans: dict[str, tuple[int, int]]
    sparse_initializers: int


def strip(data) -> Skeleton:
    """`data` is a bytes-like object (a memory map) of a ModelProto. Raises WireError if it is cut off or not one."""
    spans: dict[str, tuple[int, int]] = {}
    model, graphs, sparse = [], 0, 0
    for field in _fields(data, 0, len(data)):
        if field.number != _GRAPH or field.wire_type != _BYTES:
            model.append(bytes(data[field.begin : field.end]))
            continue
        graphs += 1
        parts = []
        for inner in _fields(data, field.start, field.end):
            sparse += inner.number == _SPARSE_INITIALIZER
            if inner.number == _INITIALIZER:
                parts.append(_nested(_INITIALIZER, _strip_tensor(data, inner, spans)))
            else:
                parts.append(bytes(data[inner.begin : inner.end]))
        model.append(_nested(_GRAPH, b"".join(parts)))
    if graphs != 1:
        raise WireError("holds no graph")
    return Skeleton(b"".join(model), spans, sparse)
