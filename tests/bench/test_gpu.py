from __future__ import annotations

import pytest

from tqc.bench import gpu
from tqc.bench.gpu import Gpu, find_gpu
from tqc.errors import TargetError

ATTRIBUTES = {16: 132, 38: 50 << 20, 75: 9, 76: 0}


class Driver:
    """A driver with so many GPUs; `init` is what cuInit answers."""

    def __init__(self, count: int = 1, init: int = 0, failing: bool = False) -> None:
        self.count, self.init, self.failing = count, init, failing

    def cuInit(self, _flags):
        return self.init

    def cuDeviceGetCount(self, found):
        found._obj.value = self.count
        return 0

    def cuDeviceGet(self, found, _number):
        found._obj.value = 0
        return 3 if self.failing else 0

    def cuDeviceGetName(self, text, _size, _device):
        text.value = b"NVIDIA Some"

    def cuDeviceTotalMem_v2(self, found, _device):
        found._obj.value = 1 << 36

    def cuDeviceGetAttribute(self, found, number, _device):
        found._obj.value = ATTRIBUTES[number]
        return 0


def test_the_first_gpu_is_described(monkeypatch):
    monkeypatch.setattr(gpu, "driver_version", lambda: "590")
    found = find_gpu(lambda _name: Driver())
    assert found == Gpu("NVIDIA Some", "sm_90a", 132, 50 << 20, 1 << 36, "590")
    assert found.about()["arch"] == "sm_90a"


@pytest.mark.parametrize("driver", [Driver(count=0), Driver(init=100), Driver(failing=True)])
def test_without_one_the_error_says_why_and_what_next(driver):
    with pytest.raises(TargetError, match="no NVIDIA GPU") as caught:
        find_gpu(lambda _name: driver)
    assert caught.value.expected
    assert caught.value.found
    assert caught.value.hint


def test_without_a_driver():
    def missing(name):
        raise OSError(f"{name}: cannot open")

    with pytest.raises(TargetError, match="driver is not installed"):
        find_gpu(missing)


def test_the_drivers_version(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.driver_version() == ""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 590.1\n")
    program.chmod(0o755)
    assert gpu.driver_version() == "590.1"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu.driver_version() == ""
