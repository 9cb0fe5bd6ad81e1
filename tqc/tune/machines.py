"""The machines that times are taken on: this CPU, or its first NVIDIA GPU."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import tvm
import tvm_ffi

from tqc.bench import cpu as bench_cpu
from tqc.bench import cuda as bench_cuda
from tqc.bench.cudart import Cudart, EventTimer
from tqc.bench.filled_cache import repeated
from tqc.bench.gpu import Gpu, find_gpu
from tqc.bench.machine import machine, versions
from tqc.bench.timing import Maker, Turns, clock, copies, run_checked
from tqc.codegen.cuda_build import load_cuda_runtime
from tqc.codegen.cuda_toolchain import find_nvcc
from tqc.codegen.target import Target, parse_targets
from tqc.cpu_levels import machine_flags, missing_flags
from tqc.errors import TargetError
from tqc.records.record import Cell
from tqc.runtime.threads import set_default_threads

from .build import Built, Job, build, build_all
from .candidates import CASES, Device
from .kernels import kernel_of
from .measurer import Measured, Subject

TURNS, CALLS = 9, 4
"""Of each candidate in a cell, and calls of a turn that count."""


@dataclass(frozen=True)
class Machine:
    """A measurer. `start()`: called once before anything runs, gives the turns and how arrays get to the kernels."""

    device: str
    target: Target
    versions: dict[str, str]
    start: Callable[[], tuple[Turns, Device]]
    processes: int

    def build(self, jobs: Sequence[Job]) -> list[Built]:
        return build_all(jobs, build, self.processes)

    def measure(self, subject: Subject, cell: Cell, built: Sequence[Built]) -> list[Measured]:
        turns, device = self.start()
        first = built[0].job
        made = kernel_of(subject.target, subject.schedule, subject.layout, first.config)
        case = CASES[subject.schedule](subject.layout, cell, made.dtype, made.turns, device)

        def candidate(each: Built):
            return case.candidate(tvm_ffi.load_module(str(each.job.path))[subject.schedule])

        makers = [Maker(str(each.job.path), "ours", 0, partial(candidate, each)) for each in built]
        found = [Measured(x.error, x.rounds if not x.fault else (), x.fault) for x in run_checked(makers, turns)]
        gc.collect()  # the caches of this cell, before those of the next
        return found


def cpu_machine(target: Target, processes: int | None = None) -> Machine:
    """This machine's CPU, with the threads that the runtime takes. Raises TargetError if it cannot run `target`."""
    if missing := missing_flags(target.arch, machine_flags()):
        raise TargetError(f"This CPU cannot run {target}", where="--arch", found=f"it lacks {', '.join(missing)}")
    set_default_threads()
    threads = tvm_ffi.get_global_func("runtime.NumThreads")()
    device = Device(
        upload=tvm.runtime.tensor,
        upload_batch=lambda array, batch: tvm.runtime.tensor(repeated(array, batch)),
        copies=copies,
        tolerance=bench_cpu.TOLERANCE,
    )
    turns = Turns(TURNS, CALLS, clock, 0.05)
    name = f"{machine()['processor'] or 'CPU'}, {threads} threads"
    return Machine(name, target, _versions(), lambda: (turns, device), processes or _cores())


def cuda_machine(target: Target, processes: int | None = None, gpu: Gpu | None = None) -> Machine:
    """The first GPU. Raises TargetError without one, without nvcc, or if it cannot run `target`."""
    gpu = gpu or find_gpu()
    if target.arch.removesuffix("a") != gpu.arch.removesuffix("a"):
        raise TargetError(f"This GPU cannot run {target}", where="--arch", expected=gpu.arch, found=target.arch)
    made = _versions() | {"nvcc": find_nvcc().version, "driver": gpu.driver}
    started: list[tuple[Turns, Device]] = []

    def start() -> tuple[Turns, Device]:
        if not started:
            load_cuda_runtime()
            cudart, cuda = Cudart(), tvm.cuda(0)
            device = Device(
                upload=lambda array: tvm.runtime.tensor(array, cuda),
                upload_batch=lambda array, batch: bench_cuda.upload_batch(array, batch, cuda, cudart),
                copies=lambda _bytes: 1,  # L2 is emptied before each call
                tolerance=bench_cuda.TOLERANCE,
            )
            started.append((Turns(TURNS, CALLS, EventTimer(cudart)), device))
        return started[0]

    return Machine(gpu.name, target, made, start, processes or _cores())


def machine_for(target: str, arch: str | None = None, processes: int | None = None) -> Machine:
    """The machine that runs `--target` and `--arch`, by default with this machine's own architecture.

    Raises TargetError for an unknown target, for more than one architecture, and as `cpu_machine` and `cuda_machine`.
    """
    asked = parse_targets(target, arch)
    if asked[0].kind == "cpu":
        return cpu_machine(_only(asked), processes)
    gpu = find_gpu()
    return cuda_machine(_only(asked if arch else parse_targets(target, gpu.arch)), processes, gpu)


def _only(targets: Sequence[Target]) -> Target:
    if len(targets) > 1:
        raise TargetError("One architecture is tuned at a time", where="--arch", found=", ".join(map(str, targets)))
    return targets[0]


def _versions() -> dict[str, str]:
    """Of what generates code."""
    found = versions(("turboquant-compiler", "apache-tvm"))
    return {"tqc": str(found["turboquant-compiler"]), "tvm": str(found["apache-tvm"])}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
