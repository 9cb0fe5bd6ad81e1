from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import tvm

from tqc.bench import cuda, cuda_peers
from tqc.bench.cuda import CudaBench, upload_batch
from tqc.bench.filled_cache import FilledCache
from tqc.bench.gpu import Gpu, find_gpu
from tqc.bench.kernels import generated
from tqc.bench.problem import Geometry, Problem
from tqc.errors import TargetError, TqcError

HEADS = Geometry(4, 2, 64)
GPU = Gpu("NVIDIA Some", "sm_90", 132, 50 << 20, 1 << 36)


class HostMemory:
    """Cudart's copy on the host."""

    def copy(self, target, source, size):
        ctypes.memmove(target, source, size)

    def synchronize(self):
        """Nothing is pending."""


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sequence_is_copied_for_every_other(batch):
    array = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    found = upload_batch(array, batch, tvm.cpu(), HostMemory())
    np.testing.assert_array_equal(found.numpy(), np.concatenate([array] * batch))


def test_memory_of_a_cell_is_known_before_anything_is_allocated(monkeypatch):
    bench = CudaBench(["tq4", "fp16"], GPU)
    monkeypatch.setattr(cuda, "build", generated)
    monkeypatch.setattr(cuda_peers, "makers", lambda problem: iter(()))
    problem = Problem(HEADS, 8, 4096)
    found = {maker.name: maker for maker in bench.makers(problem)}
    assert list(found) == ["tq4", "tq4 append", "fp16", "fp16 append", "copy"]
    for name in ("tq4", "fp16"):
        kernels = generated(cuda.layout_of(name, HEADS, bench.target), bench.target)
        assert found[name].memory == FilledCache(problem, kernels.layout, kernels.turns).bytes_held
    assert found["fp16"].exact
    assert not found["tq4"].exact
    assert found["tq4"].config


def test_what_has_no_kernel_is_refused_before_anything_is_compiled():
    with pytest.raises(TqcError):
        CudaBench(["fp32"], GPU).check(HEADS)
    CudaBench(["tq4"], GPU).check(HEADS)


def test_the_device_and_its_peers_are_told(monkeypatch):
    monkeypatch.setattr(cuda_peers, "missing", lambda: {"flashinfer": "not installed"})
    bench = CudaBench(["tq4"], GPU)
    assert bench.device["name"] == "NVIDIA Some"
    assert bench.notes() == ["no time of flashinfer: not installed"]
    emptied = []
    fake = SimpleNamespace(cuda=SimpleNamespace(empty_cache=lambda: emptied.append(1)))
    monkeypatch.setitem(cuda.sys.modules, "torch", fake)
    bench.release()
    assert emptied == [1]


@pytest.mark.gpu
def test_every_candidate_of_a_gpu_is_right():
    from tqc.bench.timing import run_checked

    try:
        find_gpu()
    except TargetError as error:
        pytest.skip(str(error))
    bench = CudaBench(["tq4", "tq2", "fp16"])
    for batch, context in ((1, 3000), (4, 300)):
        timings = run_checked(list(bench.makers(Problem(HEADS, batch, context))), bench.turns(1))
        assert not [timing for timing in timings if timing.kind != "peer" and timing.fault]
        assert all(timing.rounds for timing in timings if timing.kind == "ours")
