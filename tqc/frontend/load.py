"""Reads an ONNX file: structure into memory, big tensors as places in files."""

from __future__ import annotations

import hashlib
import math
import mmap
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import ml_dtypes  # noqa: F401 (makes bfloat16 a dtype of NumPy)
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions

from tqc.codec import nbits
from tqc.errors import FrontendError

from .weights import ArrayTensor, FileTensor, Source
from .wire import Skeleton, WireError, strip

DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT16: "int16",
    TensorProto.INT8: "int8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
}

HALF_BYTES = {TensorProto.INT4: "int4", TensorProto.UINT4: "uint4"}
"""Types of initialisers that store two numbers a byte; their source is the uint8 vector of these bytes."""

OPSETS = (14, 25)
"""The oldest and newest version of ONNX's operators that is read."""

_HASH_CHUNK = 1 << 22


@dataclass(frozen=True)
class Tensor:
    """An initialiser: element type, shape and where its numbers are."""

    shape: tuple[int, ...]
    dtype: str
    source: Source


@dataclass(frozen=True)
class LoadedModel:
    """`proto` has no big tensors; `initializers` has every initialiser of the main graph by name."""

    path: Path
    proto: onnx.ModelProto
    initializers: dict[str, Tensor]
    files: tuple[Path, ...]
    opset: int

    def sha256(self) -> str:
        """Digest of the model file followed by its external data files in name order, streamed."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(_HASH_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()


def _external_path(location: str, model: Path, tensor: str) -> Path:
    """The file that holds a tensor; refuses every place outside the model's folder."""

    def refuse(what: str, hint: str) -> FrontendError:
        return FrontendError(what, where=f"initialiser {tensor}", found=str(location) or "no location", hint=hint)

    if not isinstance(location, str):  # protobuf gives what is not UTF-8 as bytes
        raise refuse("External data has an unreadable location.", "The file is damaged; export the model again.")
    pure = PurePosixPath(location)
    if not location or "\\" in location or "\0" in location or pure.is_absolute() or ".." in pure.parts:
        raise refuse(
            "External data must lie in the model's folder.", "Export again with a plain file name as location."
        )
    folder = model.parent.resolve()
    path = folder / pure
    resolved = path.resolve()
    if not resolved.is_relative_to(folder):
        raise refuse("External data is a link that leaves the model's folder.", "Copy the data next to the model.")
    if not resolved.is_file():
        raise refuse(f"External data is missing: {path}", "Put the data file next to the model.")
    return resolved


def _layout(shape: tuple[int, ...], dtype: str) -> tuple[tuple[int, ...], str, int]:
    """Shape and type of what is stored, and its bytes."""
    if dtype in HALF_BYTES.values():
        shape, dtype = (-(-math.prod(shape) // 2),), "uint8"
    return shape, dtype, math.prod(shape) * np.dtype(dtype).itemsize


def _external(proto: TensorProto, shape: tuple[int, ...], dtype: str, model: Path) -> FileTensor:
    entries = {entry.key: entry.value for entry in proto.external_data}
    path = _external_path(entries.get("location", ""), model, proto.name)
    stored, element, size = _layout(shape, dtype)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError:
        raise FrontendError(
            "External data has an unreadable offset or length.", where=f"initialiser {proto.name}", found=str(entries)
        ) from None
    available = path.stat().st_size
    if offset < 0 or length != size or offset + size > available:
        raise FrontendError(
            "External data does not hold the tensor.",
            where=f"initialiser {proto.name} in {path.name}",
            expected=f"{size} bytes for {dtype}{list(shape)}",
            found=f"offset {offset}, length {length}, file of {available} bytes",
            hint="The data file is truncated or belongs to another model.",
        )
    return FileTensor(path, offset, stored, element)


def _tensor(proto: TensorProto, spans: dict[str, tuple[int, int]], model: Path) -> Tensor:
    dtype, shape = (DTYPES | HALF_BYTES).get(proto.data_type), tuple(proto.dims)
    where = f"initialiser {proto.name}"
    if dtype is None:
        known = TensorProto.DataType.values()
        found = TensorProto.DataType.Name(proto.data_type) if proto.data_type in known else str(proto.data_type)
        raise FrontendError(
            "Initialiser of an unsupported element type.",
            where=where,
            expected=", ".join(DTYPES.values()),
            found=found,
            hint="Export the model in float32 or float16.",
        )
    if any(dim < 0 for dim in shape):
        raise FrontendError("Initialiser with a negative dimension.", where=where, found=str(list(shape)))
    if proto.data_location == TensorProto.EXTERNAL:
        return Tensor(shape, dtype, _external(proto, shape, dtype, model))
    if proto.name in spans:
        offset, length = spans[proto.name]
        stored, element, size = _layout(shape, dtype)
        if length != size:
            raise FrontendError(
                "Initialiser data has the wrong size.", where=where, expected=f"{size} bytes", found=f"{length} bytes"
            )
        return Tensor(shape, dtype, FileTensor(model, offset, stored, element))
    try:
        array = numpy_helper.to_array(proto)
    except (ValueError, TypeError) as error:
        raise FrontendError("Initialiser cannot be read.", where=where, found=str(error)) from None
    if proto.data_type in HALF_BYTES:
        array = nbits.pack(array.reshape(-1).astype(np.int8).view(np.uint8) & 15, 4)
    return Tensor(shape, dtype, ArrayTensor(array))


def _opset(proto: onnx.ModelProto, path: Path) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or not OPSETS[0] <= versions[0] <= OPSETS[1]:
        raise FrontendError(
            "Unsupported opset.",
            where=str(path),
            expected=f"{OPSETS[0]} to {OPSETS[1]}",
            found=", ".join(map(str, versions)) or "none",
            hint="Export again with opset 18.",
        )
    return versions[0]


def _structure(path: Path) -> tuple[Skeleton, onnx.ModelProto]:
    if path.stat().st_size == 0:
        raise WireError("is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        skeleton = strip(data)
    proto = onnx.ModelProto.FromString(skeleton.structure)
    if proto.functions:
        proto = inline_local_functions(proto)
    if not proto.graph.node or not proto.opset_import:
        raise WireError("holds no nodes")
    return skeleton, proto


def load(path: str | Path) -> LoadedModel:
    """Reads the model's structure and locates its weights.

    Raises FrontendError for a file that is not ONNX, truncated, of an unsupported opset, with sparse or unknown
    initialisers, or whose external data is missing, too short or outside the model's folder.
    """
    path = Path(path)
    if not path.is_file():
        raise FrontendError("No such file.", where=str(path), hint="Give the path of a .onnx file.")
    resolved = path.resolve()
    try:
        skeleton, proto = _structure(resolved)
    except (WireError, DecodeError) as error:
        raise FrontendError(
            "Not a readable ONNX file.",
            where=str(path),
            found=f"the file {error}",
            hint="The file is truncated, or is not an ONNX model.",
        ) from None
    if skeleton.sparse_initializers:
        raise FrontendError(
            "Sparse initialisers are not supported.",
            where=str(path),
            found=f"{skeleton.sparse_initializers} sparse initialisers",
            hint="Export the model with dense weights.",
        )
    opset = _opset(proto, path)
    # A model may be reached through a link; its data then lies beside the file the user named.
    initializers = {tensor.name: _tensor(tensor, skeleton.spans, path.absolute()) for tensor in proto.graph.initializer}
    external = {t.source.path for t in initializers.values() if isinstance(t.source, FileTensor)}
    files = (resolved, *sorted(p for p in external if p.resolve() != resolved))
    return LoadedModel(path, proto, initializers, files, opset)
