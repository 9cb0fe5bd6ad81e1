from __future__ import annotations

import gc
import hashlib
import io
import json
import weakref

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tqc.artifact.params import ALIGNMENT, Param, read_places, write_params
from tqc.errors import ArtifactError


def param(name, array, dtype=None):
    return Param(name, array.shape, dtype or str(array.dtype), lambda: array)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "odd": rng.random(3, np.float32),
        "matrix": rng.random((8, 16), np.float32),
        "half": rng.random((4, 32)).astype(np.float16),
        "scalar": np.float32(3.0).reshape(()),
        "empty": np.zeros((0, 4), np.int64),
        "codes": rng.integers(0, 255, (64,), dtype=np.uint8),
        "transposed": rng.random((16, 8), np.float32).T,
    }


def write(path, params):
    digest = hashlib.sha256()
    with path.open("wb") as file:
        size = write_params(file, digest, params)
    assert size == path.stat().st_size
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def test_the_safetensors_library_reads_it(tmp_path, arrays):
    path = write(tmp_path / "p.safetensors", [param(name, array) for name, array in arrays.items()])
    loaded = load_file(path)
    assert set(loaded) == set(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_bfloat16_travels_as_its_bits(tmp_path):
    path = write(tmp_path / "p.safetensors", [param("b", np.array([0x3F80, 0x4000], np.uint16), "bfloat16")])
    with safe_open(path, "pt") as file:
        tensor = file.get_tensor("b")
    assert str(tensor.dtype) == "torch.bfloat16"
    assert tensor.tolist() == [1.0, 2.0]


def test_places_lead_to_the_values_and_large_ones_are_aligned(tmp_path, arrays):
    path = write(tmp_path / "p.safetensors", [param(name, array) for name, array in arrays.items()])
    places = read_places(path)
    for name, array in arrays.items():
        place = places[name]
        stored = np.fromfile(path, array.dtype, array.size, offset=place.offset).reshape(place.shape)
        np.testing.assert_array_equal(stored, array)
        assert place.nbytes % ALIGNMENT or place.offset % ALIGNMENT == 0


def test_one_tensor_at_a_time():
    arrays = weakref.WeakSet()

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

        def __array_finalize__(self, source):
            arrays.add(self)

    alive = []

    def read():
        gc.collect()
        alive.append(len(arrays))
        return np.zeros(1024, np.float32).view(Tracked)

    write_params(io.BytesIO(), hashlib.sha256(), [Param(f"p{i}", (1024,), "float32", read) for i in range(4)])
    assert alive == [0, 0, 0, 0]


def test_a_weight_may_come_in_parts(tmp_path, arrays):
    whole = write(tmp_path / "whole", [param("matrix", arrays["matrix"])])
    parts = lambda: (arrays["matrix"][rows] for rows in (slice(0, 3), slice(3, 7), slice(7, 8)))  # noqa: E731
    cut = write(tmp_path / "cut", [Param("matrix", (8, 16), "float32", parts)])
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("rows", [(0, 3), (0, 9)])
def test_refuses_parts_that_are_not_the_whole(rows):
    wrong = Param("w", (8, 16), "float32", lambda: iter([np.zeros((9, 16), np.float32)[slice(*rows)]]))
    with pytest.raises(ArtifactError, match="differs from its announcement"):
        write_params(io.BytesIO(), hashlib.sha256(), [wrong])


def test_refuses_what_was_not_announced():
    wrong = Param("w", (4,), "float32", lambda: np.zeros(5, np.float32))
    with pytest.raises(ArtifactError, match="differs from its announcement"):
        write_params(io.BytesIO(), hashlib.sha256(), [wrong])
    good = param("w", np.zeros(4, np.float32))
    with pytest.raises(ArtifactError, match="same name"):
        write_params(io.BytesIO(), hashlib.sha256(), [good, good])


def raw(table, data=b"", length=None) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\1\2",
        raw({}, length=1 << 40),
        raw(b"not json"),
        raw([1]),
        raw({"w": ENTRY}, b"\0" * 15),
        raw({"w": {**ENTRY, "dtype": "F99"}}, b"\0" * 16),
        raw({"w": {**ENTRY, "shape": [5]}}, b"\0" * 16),
        raw({"w": {**ENTRY, "shape": [-4]}}, b"\0" * 16),
        raw({"w": {**ENTRY, "data_offsets": [-16, 0]}}, b"\0" * 16),
        raw({"w": {"dtype": "F32"}}, b"\0" * 16),
        raw(b"[" * 100_000),
    ],
)
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError):
        read_places(path)
