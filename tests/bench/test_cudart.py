from __future__ import annotations

import ctypes

import pytest

from tqc.bench.cudart import Cudart, EventTimer
from tqc.errors import TargetError


class Function:
    """A function of the library: notes its call, writes through pointers, and returns a status."""

    def __init__(self, library: FakeLibrary, name: str) -> None:
        self.library, self.name, self.restype = library, name, None

    def __call__(self, *arguments):
        if self.name == "cudaGetErrorString":
            return b"out of memory"
        self.library.calls.append(self.name)
        if self.name == self.library.failing:
            return 2
        for argument, value in zip(arguments, self.library.written.get(self.name, ()), strict=False):
            argument._obj.value = value
        return 0


class FakeLibrary:
    def __init__(self, failing: str = "") -> None:
        self.calls, self.failing, self._functions = [], failing, {}
        self.written = {
            "cudaMalloc": [4096],
            "cudaMemGetInfo": [10, 20],
            "cudaEventElapsedTime": [2.5],
        }

    def __getattr__(self, name: str) -> Function:
        if name not in self._functions:
            self._functions[name] = Function(self, name)
        return self._functions[name]


def test_memory():
    library = FakeLibrary()
    cudart = Cudart(library)
    assert cudart.malloc(64) == 4096
    assert cudart.free_bytes() == 10
    cudart.copy(4096, 8192, 64)
    cudart.synchronize()
    assert library.calls == ["cudaMalloc", "cudaMemGetInfo", "cudaMemcpyAsync", "cudaDeviceSynchronize"]


def test_a_call_that_fails_says_which_and_why():
    with pytest.raises(TargetError, match=r"cudaMalloc[\s\S]*error 2: out of memory"):
        Cudart(FakeLibrary("cudaMalloc")).malloc(1 << 40)


def test_the_cache_is_emptied_before_the_first_event():
    library = FakeLibrary()
    timer = EventTimer(Cudart(library), flush_bytes=1024)
    library.calls.clear()
    assert timer(lambda: library.calls.append("the call")) == pytest.approx(2.5e-3)
    assert library.calls == [
        *("cudaMemsetAsync", "cudaEventRecord", "the call", "cudaEventRecord"),
        *("cudaEventSynchronize", "cudaEventElapsedTime"),
    ]


@pytest.mark.gpu
def test_on_a_gpu_a_longer_copy_takes_longer():
    from tqc.bench.gpu import find_gpu
    from tqc.codegen.cuda_build import load_cuda_runtime

    try:
        find_gpu()
    except TargetError as error:
        pytest.skip(str(error))
    load_cuda_runtime()
    cudart = Cudart()
    timer, (a, b) = EventTimer(cudart), (cudart.malloc(1 << 28), cudart.malloc(1 << 28))
    short, long = (min(timer(lambda n=n: cudart.copy(a, b, n)) for _ in range(5)) for n in (1 << 20, 1 << 28))
    assert 0 < short < long
    assert ctypes.c_void_p(a).value
