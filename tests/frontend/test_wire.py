from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tqc.frontend.wire import KEEP_INLINE, WireError, strip


def _model(*arrays: np.ndarray) -> bytes:
    tensors = [numpy_helper.from_array(array, f"t{index}") for index, array in enumerate(arrays)]
    graph = helper.make_graph([helper.make_node("Identity", ["t0"], ["y"])], "g", [], [], tensors)
    return helper.make_model(graph).SerializeToString()


def test_big_tensors_become_spans_and_the_rest_survives():
    big, small = np.arange(KEEP_INLINE, dtype=np.float32), np.arange(5, dtype=np.int64)
    data = _model(big, small)
    skeleton = strip(data)
    offset, length = skeleton.spans["t0"]
    np.testing.assert_array_equal(np.frombuffer(data, np.float32, length // 4, offset), big)
    assert list(skeleton.spans) == ["t0"]
    assert len(skeleton.structure) < 500
    model, whole = onnx.ModelProto.FromString(skeleton.structure), onnx.ModelProto.FromString(data)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[1]), small)
    whole.graph.initializer[0].ClearField("raw_data")
    assert model == whole


def test_tensors_up_to_the_limit_stay():
    skeleton = strip(_model(np.zeros(KEEP_INLINE, np.uint8)))
    assert skeleton.spans == {}


def test_every_cut_is_noticed_or_leaves_no_graph():
    data = _model(np.arange(2000, dtype=np.float32))
    for end in [*range(1, 60), *range(60, len(data), 97)]:
        try:
            skeleton = strip(data[:end])
        except WireError:
            continue
        # A cut between two fields is a shorter message: then the operator sets, written last, are gone.
        assert not onnx.ModelProto.FromString(skeleton.structure).opset_import


@pytest.mark.parametrize("data", [b"", b"not a model at all", b"\x07\x00", b"\xff" * 20, b"\x00\x01"])
def test_other_bytes_are_refused(data):
    with pytest.raises(WireError):
        strip(data)


def test_counts_sparse_initialisers():
    values = numpy_helper.from_array(np.ones(2, np.float32), "s")
    indices = numpy_helper.from_array(np.array([0, 3], np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, [5])
    graph = helper.make_graph([], "g", [], [], sparse_initializer=[sparse])
    assert strip(helper.make_model(graph).SerializeToString()).sparse_initializers == 1
