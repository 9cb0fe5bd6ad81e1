"""Candidates of a decode step on an NVIDIA GPU."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import tvm

from tqc.codegen.cuda_build import load_cuda_runtime
from tqc.codegen.target import Target, parse_targets

from . import cuda_peers
from .cudart import Cudart, EventTimer
from .gpu import Gpu, find_gpu
from .kernels import Kernels, compiled, generated, layout_of
from .own import own_makers
from .problem import Geometry, Problem
from .timing import Candidate, Maker, Turns

TOLERANCE = 1e-2
"""Relative error of an output: queries, probabilities, centroids and outputs are float16."""
COPY_BYTES = 1 << 30
CALLS = 10
"""Counted in a turn."""


class CudaBench:
    """Kernels of `kv` for the first GPU, and peers, all on the default stream and timed by events.

    Raises TargetError without a GPU, before anything is loaded.
    """

    name = "cuda"
    contexts, batches = tuple(1 << n for n in range(11, 18)), (1, 8, 32)

    def __init__(self, kv: list[str], gpu: Gpu | None = None) -> None:
        self.kv, self.gpu = kv, gpu or find_gpu()
        (self.target,) = parse_targets("cuda", self.gpu.arch)
        self._kernels: dict[tuple[str, Geometry], Kernels] = {}

    @cached_property
    def cudart(self) -> Cudart:
        load_cuda_runtime()
        return Cudart()

    @cached_property
    def _timer(self) -> EventTimer:
        return EventTimer(self.cudart)

    @cached_property
    def _copied(self) -> tuple[int, int]:
        return self.cudart.malloc(COPY_BYTES), self.cudart.malloc(COPY_BYTES)

    @property
    def device(self) -> dict[str, Any]:
        return self.gpu.about()

    def turns(self, repeats: int) -> Turns:
        return Turns(repeats, CALLS, self._timer)

    def free_bytes(self) -> int:
        return self.cudart.free_bytes()

    def check(self, geometry: Geometry) -> None:
        """Raises TqcError if there is no kernel for a scheme, without compiling any."""
        for name in self.kv:
            generated(layout_of(name, geometry, self.target), self.target)

    def notes(self) -> list[str]:
        """What is not measured, and why."""
        return [f"no time of {name}: {why}" for name, why in cuda_peers.missing().items()]

    def makers(self, problem: Problem) -> Iterator[Maker]:
        yield from cuda_peers.makers(problem)
        for name in self.kv:
            yield from own_makers(
                name,
                self._built(name, problem.geometry),
                problem,
                upload=lambda array: tvm.runtime.tensor(array, tvm.cuda(0)),
                upload_batch=lambda array, batch: upload_batch(array, batch, tvm.cuda(0), self.cudart),
                copies=lambda _bytes: 1,  # L2 is emptied before each call
                tolerance=TOLERANCE,
            )
        yield Maker("copy", "copy", 0, self._copy)

    def _built(self, name: str, geometry: Geometry) -> Kernels:
        if (name, geometry) not in self._kernels:
            self._kernels[name, geometry] = build(layout_of(name, geometry, self.target), self.target)
        return self._kernels[name, geometry]

    def _copy(self) -> Candidate:
        source, target = self._copied
        return Candidate([lambda: self.cudart.copy(target, source, COPY_BYTES)], 2 * COPY_BYTES)

    def release(self) -> None:
        """Gives the memory of a cell back: torch keeps what it frees."""
        gc.collect()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()


def build(layout: Any, target: Target) -> Kernels:
    return compiled(generated(layout, target), target)


def upload_batch(array: np.ndarray, batch: int, device: Any, cudart: Cudart) -> Any:
    """A state tensor of one sequence as that of `batch` sequences: uploaded once, the others copied on the device."""
    first = tvm.runtime.tensor(array, device)
    if batch == 1:
        return first
    whole = tvm.runtime.empty((batch * array.shape[0], *array.shape[1:]), str(array.dtype), device)
    for number in range(batch):
        cudart.copy(whole.data_ptr() + number * array.nbytes, first.data_ptr(), array.nbytes)
    cudart.synchronize()  # `first` is freed when this returns
    return whole
