from __future__ import annotations

import numpy as np
import pytest

from tqc.runtime.device import CpuDevice, RuntimeDevice, open_device
from tqc.runtime.inputs import Inputs


@pytest.fixture(params=["cpu", "runtime"])
def inputs(request):
    open_device("cpu")
    return Inputs(CpuDevice() if request.param == "cpu" else RuntimeDevice("cpu", 0))


def test_the_same_memory_gets_other_numbers(inputs):
    first = np.array([[1, 2]], np.int64)
    tensor = inputs.put("ids", first)
    place = tensor.data_ptr()
    assert inputs.put("ids", first + 5).data_ptr() == place
    np.testing.assert_array_equal(np.from_dlpack(tensor), first + 5)
    assert first[0, 0] == 1, "the caller's array is not written to"


@pytest.mark.parametrize("other", [np.zeros((1, 3), np.int64), np.zeros((1, 2), np.int32)])
def test_another_shape_or_type_is_another_tensor(inputs, other):
    inputs.put("ids", np.array([[1, 2]], np.int64))
    tensor = inputs.put("ids", other)
    assert tuple(tensor.shape) == other.shape
    assert str(tensor.dtype) == str(other.dtype)


def test_names_do_not_share_memory(inputs):
    a, b = (inputs.put(name, np.array([number], np.int32)) for name, number in (("a", 1), ("b", 2)))
    assert a.data_ptr() != b.data_ptr()
    assert np.from_dlpack(a)[0] == 1
