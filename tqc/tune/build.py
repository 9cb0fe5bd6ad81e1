"""Candidates built side by side, each in a process of its own: one that crashes or hangs is a fault and no more."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqc.bench.timing import reason
from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.compiler.configurations import default_of
from tqc.records.record import Resources

from .kernels import kernel_of

SECONDS = 600.0
"""After which a build is given up."""


@dataclass(frozen=True)
class Job:
    """One configuration to build, as a library at `path`."""

    target: Target
    schedule: str
    layout: CacheLayout
    config: Any
    path: Path


@dataclass(frozen=True)
class Built:
    """A job that is done: what its kernel takes, on CUDA; `fault`: why there is no library, else empty."""

    job: Job
    resources: Resources | None = None
    fault: str = ""


Worker = Callable[[Job], Built]
"""A function of a module, so that another process finds it."""


def build_all(jobs: Sequence[Job], worker: Worker, processes: int, seconds: float = SECONDS) -> list[Built]:
    """All jobs, in order, at most `processes` at a time."""
    with ThreadPoolExecutor(max(1, processes)) as pool:
        return list(pool.map(lambda job: _apart(job, worker, seconds), jobs))


def build(job: Job) -> Built:
    """The library of a job, its kernel under the schedule's name. Raises TqcError for a configuration that the
    schedule or the toolchain refuses. A CUDA kernel that spills registers is a fault, and not built to the end, unless
    it is the default, with which all others are compared."""
    import contextlib

    import tvm

    from tqc.codegen.cuda_build import cuda_build_environment

    function, resources = kernel_of(job.target, job.schedule, job.layout, job.config).function, None
    if job.target.kind == "cuda":
        resources = _resources(job, function)
        if resources.spilled and job.config != default_of(job.target, job.schedule, job.layout):
            return Built(job, resources, f"spills {resources.spilled} bytes of registers")
    environment = cuda_build_environment(job.target) if job.target.kind == "cuda" else contextlib.nullcontext()
    with environment:
        module = tvm.compile(tvm.IRModule({job.schedule: function}), target=job.target.tvm_target())
    module.export_library(str(job.path))
    return Built(job, resources)


def _resources(job: Job, function: Any) -> Resources:
    """Of the launch that attends, the first of a schedule's."""
    from tqc.codegen.cuda_source import cuda_source
    from tqc.codegen.resources import resources_of

    found = resources_of(cuda_source({job.schedule: function}, job.target), job.target.arch)
    main = found[f"{job.schedule}_kernel"]
    dynamic = job.config.shared_bytes(job.layout)
    spilled = sum(used.spill_stores + used.spill_loads for used in found.values())
    return Resources(registers=main.registers, shared=main.shared + dynamic, spilled=spilled)


def _apart(job: Job, worker: Worker, seconds: float) -> Built:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, pickle.dumps((worker, job))), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            return Built(job, fault=f"not built after {seconds:g} s")
        return ours.recv()
    except EOFError:
        process.join()
        return Built(job, fault=f"the compiler's process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
        ours.close()


def _answer(connection: Connection, pickled: bytes) -> None:
    """The other process: the worker's result, or its error as a fault."""
    worker, job = pickle.loads(pickled)
    try:
        found = worker(job)
    except Exception as error:  # whatever the compiler raises belongs to this candidate only
        found = Built(job, fault=reason(error))
    connection.send(found)
