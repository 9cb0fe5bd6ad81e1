from __future__ import annotations

import hashlib

import numpy as np

from tqc.artifact.params import Param, read_places, write_params
from tqc.runtime.device import CpuDevice, open_device
from tqc.runtime.weights import load_weights


def write(folder, arrays):
    params = [Param(name, array.shape, str(array.dtype), lambda array=array: array) for name, array in arrays.items()]
    with (folder / "params.safetensors").open("wb") as file:
        write_params(file, hashlib.sha256(), params)


def test_values_order_and_sharing(tmp_path, fake):
    rng = np.random.default_rng(0)
    arrays = {
        "zeta": rng.random((16, 16), np.float32),
        "bias": rng.random(3, np.float32),
        "byte": np.arange(5, dtype=np.uint8),
        "half": rng.random((2, 7)).astype(np.float16),
        "alpha": rng.random((64, 4), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    write(tmp_path, arrays)
    manifest = fake.make_manifest(params=tuple(arrays))
    weights = load_weights(tmp_path, manifest, open_device("cpu"))
    assert len(weights) == len(arrays)
    for tensor, (name, array) in zip(weights, arrays.items(), strict=True):
        np.testing.assert_array_equal(CpuDevice().download(tensor), array, err_msg=name)
        assert tensor.data_ptr() % 64 == 0
    places = read_places(tmp_path / "params.safetensors")
    apart = places["zeta"].offset - places["alpha"].offset
    assert weights[0].data_ptr() - weights[4].data_ptr() == apart, "large weights lie in the mapped file"


def test_writing_to_them_does_not_change_the_file(tmp_path, fake):
    write(tmp_path, {"w": np.zeros((16, 16), np.float32)})
    weights = load_weights(tmp_path, fake.make_manifest(params=("w",)), open_device("cpu"))
    before = (tmp_path / "params.safetensors").read_bytes()
    np.from_dlpack(weights[0])[:] = 1
    assert (tmp_path / "params.safetensors").read_bytes() == before
