from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tqc.codec import nbits
from tqc.errors import FrontendError
from tqc.frontend.load import load
from tqc.frontend.weights import FileTensor


@pytest.fixture
def external(decoder, tmp_path):
    """A model whose weights lie in weights.bin beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(decoder().model(), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def _relocate(path, location: str, **more: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            entry.value = more.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def _refusal(path) -> FrontendError:
    with pytest.raises(FrontendError) as caught:
        load(path)
    return caught.value


def test_inline_and_external_weights_read_the_same(decoder, external, tmp_path):
    inline = load(decoder().save(tmp_path))
    outside = load(external)
    assert inline.initializers.keys() == outside.initializers.keys()
    for name, tensor in inline.initializers.items():
        np.testing.assert_array_equal(tensor.source.read(), outside.initializers[name].source.read())
    assert inline.opset == 17
    assert inline.sha256() != outside.sha256()
    assert [path.name for path in outside.files] == ["model.onnx", "weights.bin"]


def test_big_weights_stay_in_the_file(decoder, tmp_path):
    model = load(decoder().save(tmp_path))
    source = model.initializers["embedding"].source
    assert isinstance(source, FileTensor)
    assert isinstance(source.read(), np.memmap)
    assert not any(tensor.raw_data for tensor in model.proto.graph.initializer if tensor.name == "embedding")


def test_missing_file(tmp_path):
    assert _refusal(tmp_path / "none.onnx").what == "No such file."
    assert _refusal(tmp_path).what == "No such file."


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 50, b"\x80" * 100, b"PK\x03\x04" + b"\0" * 64])
def test_not_an_onnx_file(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert _refusal(path).what == "Not a readable ONNX file."


def test_truncated_file(decoder, tmp_path):
    path = decoder().save(tmp_path)
    data = path.read_bytes()
    for end in (1, 10, 100, len(data) // 2, len(data) - 8, len(data) - 1):
        path.write_bytes(data[:end])
        error = _refusal(path)
        assert error.what in ("Not a readable ONNX file.", "Unsupported opset."), end


def test_missing_external_data(external):
    (external.parent / "weights.bin").unlink()
    error = _refusal(external)
    assert "missing" in error.what
    assert "weights.bin" in error.what
    assert error.where.startswith("initialiser ")


@pytest.mark.parametrize("location", ["../weights.bin", "a/../../weights.bin", "/etc/hostname", "..\\w", "", "."])
def test_external_data_outside_the_folder(external, location):
    shutil.copy(external.parent / "weights.bin", external.parent.parent / "weights.bin")
    _relocate(external, location)
    assert "folder" in _refusal(external).what or "missing" in _refusal(external).what


def test_link_out_of_the_folder(external):
    data = external.parent / "weights.bin"
    data.rename(external.parent.parent / "elsewhere.bin")
    os.symlink(external.parent.parent / "elsewhere.bin", data)
    assert "link" in _refusal(external).what


def test_linked_subfolder_out_of_the_folder(external):
    os.symlink(external.parent.parent, external.parent / "sub")
    shutil.copy(external.parent / "weights.bin", external.parent.parent / "weights.bin")
    _relocate(external, "sub/weights.bin")
    assert "link" in _refusal(external).what


def test_external_data_in_a_subfolder_is_fine(external):
    (external.parent / "data").mkdir()
    (external.parent / "weights.bin").rename(external.parent / "data" / "weights.bin")
    _relocate(external, "data/weights.bin")
    assert load(external).files[1].name == "weights.bin"


def test_truncated_external_data(external):
    data = external.parent / "weights.bin"
    data.write_bytes(data.read_bytes()[:-100])
    error = _refusal(external)
    assert error.what == "External data does not hold the tensor."
    assert "weights.bin" in error.where


@pytest.mark.parametrize("entry", [{"offset": "-8"}, {"length": "4"}, {"offset": "x"}, {"offset": str(1 << 70)}])
def test_impossible_offsets_and_lengths(external, entry):
    _relocate(external, "weights.bin", **entry)
    assert "External data" in _refusal(external).what


def test_unknown_element_type(decoder, tmp_path):
    model = decoder()
    model.initializers.append(helper.make_tensor("odd", TensorProto.FLOAT8E4M3FN, [2], [1.0, 2.0]))
    error = _refusal(model.save(tmp_path))
    assert error.found == "FLOAT8E4M3FN"
    assert "odd" in error.where


def test_negative_dimensions(decoder, tmp_path):
    model = decoder()
    model.initializers.append(numpy_helper.from_array(np.ones(4, np.float32), "odd"))
    model.initializers[-1].dims[0] = -4
    assert "negative" in _refusal(model.save(tmp_path)).what


def test_inline_data_of_the_wrong_size(decoder, tmp_path):
    for size in (3, 3000):
        model = decoder()
        model.initializers.append(numpy_helper.from_array(np.ones(size, np.float32), "odd"))
        model.initializers[-1].dims[0] = size + 1
        error = _refusal(model.save(tmp_path))
        assert "odd" in error.where


def test_sparse_initialisers(decoder, tmp_path):
    model = decoder().model()
    values = numpy_helper.from_array(np.ones(2, np.float32), "sparse")
    indices = numpy_helper.from_array(np.array([0, 3], np.int64), "sparse_indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [5]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    assert "Sparse" in _refusal(path).what


@pytest.mark.parametrize("version", [7, 13, 26])
def test_opsets_outside_the_range(decoder, tmp_path, version):
    model = decoder().model()
    model.opset_import[0].version = version
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    error = _refusal(path)
    assert (error.what, error.found) == ("Unsupported opset.", str(version))


@pytest.mark.parametrize("place", ["inline", "raw", "external"])
@pytest.mark.parametrize("dtype", ["INT4", "UINT4"])
def test_two_numbers_a_byte(tmp_path, place, dtype):
    numbers = np.arange(33 * 65).reshape(33, 65) % 16 - (8 if dtype == "INT4" else 0)
    tensor = helper.make_tensor("table", getattr(TensorProto, dtype), numbers.shape, numbers.reshape(-1).tolist())
    packed = nbits.pack(numbers.reshape(-1).astype(np.int8).view(np.uint8) & 15, 4)
    if place != "inline":
        tensor.ClearField("int32_data")
        tensor.raw_data = packed.tobytes()
    output = helper.make_tensor_value_info("table", tensor.data_type, numbers.shape)
    node = helper.make_node("Identity", ["table"], ["out"])
    model = helper.make_model(helper.make_graph([node], "g", [], [output], [tensor]), ir_version=10)
    model.opset_import[0].version = 21
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=place == "external", size_threshold=0)
    found = load(tmp_path / "m.onnx").initializers["table"]
    assert (found.shape, found.dtype) == ((33, 65), dtype.lower())
    np.testing.assert_array_equal(found.source.read(), packed)


def test_a_location_that_is_not_text(external):
    data = external.read_bytes()
    external.write_bytes(data.replace(b"weights.bin", b"weights\xff\xfein"))
    with pytest.raises(FrontendError, match="unreadable location"):
        load(external)
