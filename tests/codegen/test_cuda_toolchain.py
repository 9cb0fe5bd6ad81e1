from __future__ import annotations

import sys

import pytest

from tqc.codegen import cuda_toolchain, fatbin
from tqc.codegen.cuda_toolchain import compile_fatbin, find_nvcc, wheel_folders
from tqc.errors import TargetError

KERNEL = '#include <cuda_fp16.h>\nextern "C" __global__ void k(half* x) { x[threadIdx.x] = __float2half(1.0f); }\n'


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without nvcc: nothing in the environment, on PATH or among the packages."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cuda_toolchain, "wheel_folders", lambda: ())


def fake_nvcc(folder, release: str = "13.0"):
    path = folder / "bin" / "nvcc"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nvcc():
    try:
        return find_nvcc()
    except TargetError as error:
        pytest.skip(str(error))


def test_without_nvcc_the_error_names_the_places(nowhere):
    with pytest.raises(TargetError, match="CUDA_HOME") as error:
        find_nvcc()
    assert "nvidia-cuda-nvcc" in str(error.value)


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_nvcc_of_the_environment_comes_before_path(nowhere, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(fake_nvcc(tmp_path / "path", "12.4").parent))
    path = fake_nvcc(tmp_path / "home")
    monkeypatch.setenv(name, str(tmp_path / "home"))
    found = find_nvcc()
    assert (found.path, found.version, found.source) == (path, "13.0", f"${name}")


def test_an_nvcc_that_does_not_run_is_passed_over(nowhere, monkeypatch, tmp_path):
    broken = fake_nvcc(tmp_path / "home")
    broken.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cuda_toolchain, "wheel_folders", lambda: (tmp_path / "wheel",))
    fake_nvcc(tmp_path / "wheel", "13.1")
    assert find_nvcc().source == "wheel nvidia-cuda-nvcc"


def test_the_wheels_folder_is_found(monkeypatch, tmp_path):
    (tmp_path / "nvidia" / "cu13").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert tmp_path / "nvidia" / "cu13" in wheel_folders()


def test_the_same_source_gives_the_same_bytes(nvcc):
    first, second = (compile_fatbin(KERNEL, "sm_80", nvcc) for _ in range(2))
    assert first == second
    assert fatbin.architectures(first) == ("sm_80",)


def test_messages_of_nvcc_reach_the_user(nvcc):
    with pytest.raises(TargetError, match='identifier "nonsense" is undefined'):
        compile_fatbin("__global__ void k() { nonsense; }", "sm_80", nvcc)
