from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tqc.frontend.weights import ArrayTensor, Cast, FileTensor, Transpose, Weight

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


def _weight(source=None) -> Weight:
    return Weight("w", (2, 3), "float32", source or ArrayTensor(ARRAY), "onnx::w")


@dataclass(frozen=True)
class Doubled:
    def apply(self, array: np.ndarray) -> np.ndarray:
        return array * 2


def test_transforms_apply_in_order():
    weight = _weight().then(Doubled()).then(Transpose((1, 0)), shape=(3, 2)).then(Cast("float16"), dtype="float16")
    np.testing.assert_array_equal(weight.numpy(), (ARRAY * 2).T.astype(np.float16))
    assert weight.numpy().flags.c_contiguous
    assert (weight.shape, weight.dtype, weight.nbytes) == ((3, 2), "float16", 12)
    assert repr(weight.transforms) == "(Doubled(), Transpose(perm=(1, 0)), Cast(dtype='float16'))"


def test_a_weight_is_not_changed_by_then():
    weight = _weight()
    weight.then(Doubled())
    np.testing.assert_array_equal(weight.numpy(), ARRAY)


def test_file_tensors_read_only_their_span(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"xyz" + ARRAY.tobytes() + b"tail")
    np.testing.assert_array_equal(_weight(FileTensor(path, 3, (2, 3), "float32")).numpy(), ARRAY)


def test_empty_file_tensors(tmp_path):
    assert FileTensor(tmp_path / "none", 0, (0, 4), "float32").read().shape == (0, 4)


def test_reading_waits_until_asked(tmp_path):
    weight = _weight(FileTensor(tmp_path / "later", 0, (2, 3), "float32")).then(Doubled())
    (tmp_path / "later").write_bytes(ARRAY.tobytes())
    np.testing.assert_array_equal(weight.numpy(), ARRAY * 2)


def test_a_transform_that_breaks_its_promise():
    with pytest.raises(ValueError, match=r"weight w: .*Transpose.* gave float32\(3, 2\), announced float32\(2, 3\)"):
        _weight().then(Transpose((1, 0))).numpy()
