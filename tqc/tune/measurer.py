"""What the tuner asks of a machine: to build candidates and to have them take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.records.record import Cell, Kernel

from .build import Built, Job


@dataclass(frozen=True)
class Subject:
    """What is tuned: the configuration of one schedule for one layout."""

    schedule: str
    layout: CacheLayout
    target: Target

    @property
    def kernel(self) -> Kernel:
        return Kernel.of(self.schedule, self.layout, self.target.arch)

    def __str__(self) -> str:
        return str(self.kernel)


@dataclass(frozen=True)
class Measured:
    """Of one candidate: its result's relative error against NumPy, seconds of all calls, a tuple for each turn, or a
    fault."""

    error: float | None = None
    rounds: tuple[tuple[float, ...], ...] = ()
    fault: str = ""


class Measurer(Protocol):
    """A machine: `tqc.tune.machines`, or a test's own. `device`: its name; `versions`: of what decides its times.
    `processes`: that build side by side."""

    device: str
    target: Target
    versions: dict[str, str]
    processes: int

    def build(self, jobs: Sequence[Job]) -> list[Built]:
        """All jobs, in order; what cannot be built has a fault."""
        ...

    def measure(self, subject: Subject, cell: Cell, built: Sequence[Built]) -> list[Measured]:
        """All candidates, in order, none of which has a fault: each is checked against the reference, and those that
        are right take turns."""
        ...
