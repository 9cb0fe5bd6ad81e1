"""Goes through the configurations of a kernel: a few are built at a time, measured together, and recorded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqc.compiler.configurations import space_of
from tqc.errors import TqcError
from tqc.records.log import TuneLog
from tqc.records.record import Cell, Record, Rounds, key, median_of, relative_of

from .build import Built, Job
from .measurer import Measured, Measurer, Subject
from .space import nearest_first

HEAT = 8
"""Configurations, the default aside, that are built side by side and take turns; more where more processes build."""

WRONG = "wrong result"
"""How the fault of a candidate begins that ran, see `tqc.bench.timing`."""

_LEAST = 1e-9
"""Minutes: no time, in a limit that has to be more than 0."""

Progress = Callable[[str, float], None]
Candidate = tuple[Any, Built, Measured]


@dataclass(frozen=True)
class Limits:
    """At most `trials` configurations of a kernel that are not in the log yet, and none begun when `minutes` have
    passed since these limits were made."""

    trials: int | None = None
    minutes: float | None = None
    start: float = field(default_factory=time.monotonic, compare=False)

    def __post_init__(self) -> None:
        """Raises TqcError for limits that allow nothing."""
        for name, value in (("--trials", self.trials), ("--minutes", self.minutes)):
            if value is not None and not value > 0:
                raise TqcError(f"{name} is out of range", expected="more than 0", found=str(value))

    @property
    def over(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.start > 60 * self.minutes

    def share(self, kernels: int) -> Limits:
        """Those of one kernel where so many are left: an equal part of the time that is left."""
        if self.minutes is None:
            return self
        left = self.minutes - (time.monotonic() - self.start) / 60
        return replace(self, minutes=max(left, _LEAST) / kernels, start=time.monotonic())


def tune(
    subject: Subject,
    cells: Sequence[Cell],
    measurer: Measurer,
    log: TuneLog,
    limits: Limits | None = None,
    progress: Progress = lambda step, fraction: None,
) -> int:
    """Appends a record for each configuration and cell that `log` has none of; returns how many.

    The default is measured with every group of others, so that each has a time of the default's in the same turns.
    Raises TargetError if no configuration fits, TqcError where the default itself cannot be built or is wrong: nothing
    could be compared with it.
    """
    limits = limits or Limits()
    default, *others = nearest_first(space_of(subject.target, subject.schedule, subject.layout))
    wanted = [config for config in (default, *others) if _missing(subject, cells, measurer, log, config)]
    wanted = wanted[: limits.trials]
    size, added = max(HEAT, measurer.processes - 1), 0
    for number, group in enumerate(groups := list(_groups(wanted, default, size))):
        if limits.over:
            break
        progress(f"{subject.schedule}: {size * number} of {len(wanted)}", number / len(groups))
        added += _heat(subject, cells, measurer, log, (default, *group))
    return added


def _missing(subject: Subject, cells: Sequence[Cell], measurer: Measurer, log: TuneLog, config: Any) -> bool:
    """Whether a configuration has no record in some cell."""
    return any(key(subject.kernel, cell, asdict(config), measurer.versions) not in log for cell in cells)


def _groups(wanted: Sequence[Any], default: Any, size: int) -> Iterator[Sequence[Any]]:
    others = [config for config in wanted if config != default]
    if wanted and not others:
        yield ()  # only the default is missing
    for first in range(0, len(others), size):
        yield others[first : first + size]


def _heat(subject: Subject, cells: Sequence[Cell], measurer: Measurer, log: TuneLog, configs: Sequence[Any]) -> int:
    """Builds the configurations, the default first, and records them in every cell."""
    before = len(log.records)
    with tempfile.TemporaryDirectory(prefix="tqc-tune-") as folder:
        jobs = [
            Job(subject.target, subject.schedule, subject.layout, config, Path(folder, f"candidate{number}.so"))
            for number, config in enumerate(configs)
        ]
        built = measurer.build(jobs)
        _check_default(subject, built[0].fault)
        ready = [each for each in built if not each.fault]
        for cell in cells:
            found = dict(zip((each.job.path for each in ready), measurer.measure(subject, cell, ready), strict=True))
            if fault := found[jobs[0].path].fault:
                _blame(subject, cells, measurer, log, ready[1:], found)
                _check_default(subject, fault)
            base = found[jobs[0].path].rounds
            for each in built:
                measured = found.get(each.job.path, Measured(fault=each.fault))
                log.append(_record(subject, cell, measurer, each, measured, base))
    return len(log.records) - before


def _blame(
    subject: Subject,
    cells: Sequence[Cell],
    measurer: Measurer,
    log: TuneLog,
    others: Sequence[Built],
    found: Mapping[Path, Measured],
) -> None:
    """Records the first candidate that failed to run, after which a GPU serves nobody in this process: it is not tried
    again, so that the next run gets past it."""
    for built in others:
        fault = found[built.job.path].fault
        if fault and not fault.startswith(WRONG):
            for cell in cells:
                log.append(_record(subject, cell, measurer, built, Measured(fault=fault), ()))
            return


def _record(subject: Subject, cell: Cell, measurer: Measurer, built: Built, measured: Measured, base: Rounds) -> Record:
    return Record(
        kernel=subject.kernel,
        cell=cell,
        config=asdict(built.job.config),
        seconds=median_of(measured.rounds),
        relative=relative_of(measured.rounds, base),
        rounds=measured.rounds,
        error=measured.error,
        fault=measured.fault,
        resources=built.resources,
        versions=measurer.versions,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _check_default(subject: Subject, fault: str) -> None:
    if fault:
        raise TqcError(
            "The default configuration cannot be measured, so nothing can be compared with it",
            where=str(subject),
            found=fault,
            hint="a candidate that could not run is recorded, and left out when the command is repeated",
        )
