"""A machine whose times are made up, and workers for builds in other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.errors import TargetError
from tqc.records.record import Cell, Resources
from tqc.tune.build import Built, Job
from tqc.tune.measurer import Measured, Subject

TARGET = Target("cuda", "sm_90")
LAYOUT = CacheLayout(8, 2, 64, order="fragments", exact_dtype="float16")
SUBJECT = Subject("decode", LAYOUT, TARGET)


@dataclass
class StandIn:
    """`seconds(config, cell)` of a call; `refused(config)`: the fault of a build; `wrong(config)`: of a result."""

    seconds: Callable[[Any, Cell], float] = lambda config, cell: config.warps * cell.context * 1e-6
    refused: Callable[[Any], str] = lambda config: ""
    wrong: Callable[[Any], str] = lambda config: ""
    device: str = "stand-in"
    target: Target = TARGET
    processes: int = 1
    versions: dict[str, str] = field(default_factory=lambda: {"tqc": "0"})
    built: list[Any] = field(default_factory=list)

    def build(self, jobs: Sequence[Job]) -> list[Built]:
        self.built += [job.config for job in jobs]
        return [Built(job, Resources(registers=99, shared=1, spilled=0), self.refused(job.config)) for job in jobs]

    def measure(self, subject: Subject, cell: Cell, built: Sequence[Built]) -> list[Measured]:
        def one(config: Any) -> Measured:
            if fault := self.wrong(config):
                return Measured(0.5, (), fault)
            return Measured(1e-3, ((self.seconds(config, cell),),))

        return [one(each.job.config) for each in built]


def works(job: Job) -> Built:
    job.path.write_text(str(os.getpid()))
    return Built(job)


def refuses(job: Job) -> Built:
    raise TargetError("this does not fit", found=str(job.config))


def crashes(job: Job) -> Built:
    os._exit(7)


def hangs(job: Job) -> Built:
    time.sleep(60)
    return Built(job)
