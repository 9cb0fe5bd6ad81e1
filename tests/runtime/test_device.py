from __future__ import annotations

import numpy as np
import pytest

from tqc.errors import SessionError
from tqc.runtime.device import CpuDevice, RuntimeDevice, aligned_zeros, open_device


@pytest.fixture(params=["cpu", "runtime"])
def device(request):
    """The CPU's own way and the way of every other device, tried on the CPU's memory."""
    open_device("cpu")
    return CpuDevice() if request.param == "cpu" else RuntimeDevice("cpu", 0)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16", "int64", "uint8"])
def test_up_and_down(device, dtype):
    array = np.arange(15).reshape(3, 5).astype(dtype)
    tensor = device.upload(array)
    assert tensor.data_ptr() % 64 == 0
    assert str(tensor.dtype) == dtype
    back = device.download(tensor)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert not np.shares_memory(back, array)


def test_arrays_that_are_not_contiguous_or_not_writable(device):
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T
    array.flags.writeable = False
    np.testing.assert_array_equal(device.download(device.upload(array)), array)


def test_zeros(device):
    tensor = device.zeros((3, 70), "float16")
    assert tensor.data_ptr() % 64 == 0
    assert tuple(tensor.shape) == (3, 70)
    assert not device.download(tensor).any()


def test_refilled_tensors_stay_where_they_are(device):
    tensor = device.zeros((2, 3), "int64")
    place = tensor.data_ptr()
    array = np.arange(12, dtype=np.int64).reshape(4, 3)[::2]
    device.refill(tensor, array)
    np.testing.assert_array_equal(device.download(tensor), array)
    assert tensor.data_ptr() == place


def test_bfloat16_is_named_as_such(device):
    bits = np.array([0x3F80, 0x4000], np.uint16)
    assert str(device.upload(bits, "bfloat16").dtype) == "bfloat16"
    assert str(device.zeros((4,), "bfloat16").dtype) == "bfloat16"


def test_an_aligned_array_is_wrapped_where_it_lies():
    array = aligned_zeros((5, 3), "float32")
    assert CpuDevice().upload(array).data_ptr() == array.ctypes.data


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:1"])
def test_unknown_devices(name):
    with pytest.raises(SessionError, match="Unknown device"):
        open_device(name)


def test_a_runtime_device_that_is_not_there():
    open_device("cpu")
    assert RuntimeDevice("cpu", 0).exists
