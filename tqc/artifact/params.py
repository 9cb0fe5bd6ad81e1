"""`params.safetensors`: written one tensor at a time, read as a table of places inside the file.

The format is that of the safetensors project: eight bytes with the length of a JSON header, the header, then the
tensors without gaps. The header is padded with spaces so that the first tensor starts on a 64-byte boundary, and
tensors whose size is a multiple of 64 come first: those can be used where they lie in a mapped file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from ..errors import ArtifactError

ALIGNMENT = 64
MAX_HEADER = 100_000_000
"""The safetensors library refuses longer headers; so do we."""

_CODES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
}
_NAMES = {code: name for name, code in _CODES.items()}
_CHUNK = 1 << 22


def storage_dtype(name: str) -> np.dtype:
    """The NumPy dtype that holds `name` in memory; bfloat16, which NumPy lacks, travels as uint16."""
    return np.dtype("uint16" if name == "bfloat16" else name)


@dataclass(frozen=True)
class Param:
    """A weight to write. `read` is called once, when its turn comes, and what it gave is dropped as it is written.

    `dtype` is a name of the manifest (`float32`, `bfloat16`, …); `read` gives an array of `storage_dtype(dtype)`, or
    several that are the weight when they are concatenated along the first axis.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray | Iterable[np.ndarray]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * storage_dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: `offset` in bytes from the start of the file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    nbytes: int


class _Hash(Protocol):
    def update(self, data: memoryview | bytes, /) -> None: ...


def file_order(params: Sequence[Param]) -> list[Param]:
    """The order in the file: what can be mapped first, then by name."""
    return sorted(params, key=lambda param: (param.nbytes % ALIGNMENT != 0, param.name))


def header(ordered: Sequence[Param]) -> bytes:
    """Length and JSON header for tensors stored in the given order."""
    table, end = {}, 0
    for param in ordered:
        start, end = end, end + param.nbytes
        table[param.name] = {"dtype": _CODES[param.dtype], "shape": list(param.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def write_params(out: BinaryIO, digest: _Hash, params: Sequence[Param]) -> int:
    """Writes all of `params`, feeding `digest`; at most one tensor is held at a time. Returns the bytes written.

    Raises ArtifactError when `read` gives another shape or dtype than announced, or a name comes twice.
    """
    ordered = file_order(params)
    if len({param.name for param in ordered}) != len(ordered):
        raise ArtifactError("Two weights have the same name", where="params.safetensors")
    written = _put(out, digest, header(ordered))
    for param in ordered:
        written += _put_tensor(out, digest, param)
    return written


def _put_tensor(out: BinaryIO, digest: _Hash, param: Param) -> int:
    given = param.read()
    expected, storage = tuple(param.shape), storage_dtype(param.dtype)
    if isinstance(given, np.ndarray | np.generic):
        return _put_array(out, digest, param, np.asarray(given), expected)
    written, rows = 0, 0
    for part in given:
        rows += len(part)
        written += _put_array(out, digest, param, part, (len(part), *expected[1:]))
    if rows != expected[0]:
        raise _unannounced(param, f"{rows} rows of {storage}")
    return written


def _put_array(out: BinaryIO, digest: _Hash, param: Param, array: np.ndarray, shape: tuple[int, ...]) -> int:
    if (array.shape, array.dtype) != (shape, storage_dtype(param.dtype)):
        raise _unannounced(param, f"{array.shape} {array.dtype}")
    array = np.asarray(array, order="C")
    flat = memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")
    return sum(_put(out, digest, flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK))


def _unannounced(param: Param, found: str) -> ArtifactError:
    return ArtifactError(
        "A weight differs from its announcement",
        where=param.name,
        expected=f"{tuple(param.shape)} {storage_dtype(param.dtype)}",
        found=found,
    )


def _put(out: BinaryIO, digest: _Hash, data: bytes | memoryview) -> int:
    out.write(data)
    digest.update(data)
    return len(data)


def read_places(path: Path) -> dict[str, Place]:
    """The tensors of a safetensors file by name. Raises ArtifactError unless every one lies inside the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ArtifactError("The header of the weights does not fit the file", where=path.name)
        text = file.read(length)
    try:
        table = json.loads(text)
        table.pop("__metadata__", None)
        places = {name: _place(name, entry, 8 + length) for name, entry in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            "The header of the weights is not understood", where=path.name, found=repr(error)
        ) from error
    for place in places.values():
        wanted = math.prod(place.shape) * storage_dtype(place.dtype).itemsize
        if place.nbytes != wanted or place.offset < 8 + length or place.offset + place.nbytes > size:
            raise ArtifactError("A weight lies outside its file", where=f"{path.name}: {place.name}")
    return places


def _place(name: str, entry: dict, base: int) -> Place:
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(dim) for dim in entry["shape"])
    if min(shape, default=0) < 0:
        raise ValueError(f"{name} has a negative dimension")
    return Place(name, shape, _NAMES[entry["dtype"]], base + start, end - start)
