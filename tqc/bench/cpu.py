"""Candidates of a decode step on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tvm

from tqc.codegen.target import Target, native_level

from .cpu_peers import peers
from .filled_cache import repeated
from .kernels import Kernels, compiled, generated, layout_of
from .machine import free_memory
from .own import own_makers
from .problem import Geometry, Problem
from .timing import Candidate, Maker, Turns, clock, copies

TOLERANCE = 2e-3
"""Relative error of an output: kernels have approximations of exp of their own."""
COPY_BYTES = 128 << 20
PAUSE_SECONDS = 0.2
CALLS = 4
"""Counted in a turn."""


class CpuBench:
    """Kernels of `kv` for this CPU, and peers, all with `threads` threads."""

    name = "cpu"
    contexts, batches = (2048, 8192, 32768), (1,)

    def __init__(self, kv: list[str], threads: int) -> None:
        self.kv, self.threads = kv, threads
        self.target = Target("cpu", native_level())
        self._kernels: dict[tuple[str, Geometry], Kernels] = {}

    @property
    def device(self) -> dict[str, Any]:
        """Nothing beside the machine."""
        return {"threads": self.threads, "arch": self.target.arch}

    def turns(self, repeats: int) -> Turns:
        return Turns(repeats, CALLS, clock, PAUSE_SECONDS)

    def free_bytes(self) -> int | None:
        return free_memory()

    def check(self, geometry: Geometry) -> None:
        """Raises TqcError if there is no kernel for a scheme, without compiling any."""
        for name in self.kv:
            generated(layout_of(name, geometry, self.target), self.target)

    def notes(self) -> list[str]:
        """What is not measured, and why."""
        return [] if peers().keys() >= {"torch"} else ["torch is not installed: no time of its attention"]

    def makers(self, problem: Problem) -> Iterator[Maker]:
        for peer in peers().values():
            yield peer(problem, self.threads)
        for name in self.kv:
            yield from own_makers(
                name,
                self._built(name, problem.geometry),
                problem,
                upload=tvm.runtime.tensor,
                upload_batch=lambda array, batch: tvm.runtime.tensor(repeated(array, batch)),
                copies=copies,
                tolerance=TOLERANCE,
            )
        yield Maker("copy", "copy", 2 * COPY_BYTES, self._copy)

    def _built(self, name: str, geometry: Geometry) -> Kernels:
        if (name, geometry) not in self._kernels:
            kernels = generated(layout_of(name, geometry, self.target), self.target)
            self._kernels[name, geometry] = compiled(kernels, self.target)
        return self._kernels[name, geometry]

    def _copy(self) -> Candidate:
        """A copy in parts, one a thread: NumPy lets other threads run meanwhile."""
        source, target = (np.full(COPY_BYTES, fill, np.uint8) for fill in (1, 2))
        parts = list(zip(*(np.array_split(x, self.threads) for x in (target, source)), strict=True))
        pool = ThreadPoolExecutor(self.threads)

        def call() -> None:
            list(pool.map(lambda pair: np.copyto(*pair), parts))

        return Candidate([call], 2 * COPY_BYTES)

    def release(self) -> None:
        """Nothing is held between cells."""
