"""Which configuration a kernel is built with: the one that tuning records speak for, or the schedule's default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.errors import TargetError
from tqc.records.choose import best
from tqc.records.record import Kernel, Record, Value


@dataclass(frozen=True)
class Configured:
    """A configuration, one of the schedules' own dataclasses, and where it comes from."""

    config: Any
    source: str

    def decisions(self) -> dict[str, Value]:
        """For the record of the kernel in the manifest."""
        return asdict(self.config) | {"configured": self.source}


Configure = Callable[[str, CacheLayout], Configured]
"""(schedule, layout) → its configuration; the schedule is `append`, `decode` or `prefill`."""


def by_records(target: Target, records: Sequence[Record], longest: int | None = None) -> Configure:
    """The best of `records` for contexts of up to `longest` tokens, or the default.

    A configuration that the kernel of a layout does not take, by its rules of today, gives the default too.
    """
    known: dict[tuple[str, CacheLayout], Configured] = {}

    def choose(schedule: str, layout: CacheLayout) -> Configured:
        found = best(records, Kernel.of(schedule, layout, target.arch), longest)
        if isinstance(found, str):
            return Configured(default_of(target, schedule, layout), f"default, {found}")
        try:
            return Configured(config_of(target, schedule, layout, found.config), str(found))
        except (TargetError, TypeError) as error:
            what = error.what if isinstance(error, TargetError) else str(error)
            return Configured(default_of(target, schedule, layout), f"default, the records' does not fit: {what}")

    def configure(schedule: str, layout: CacheLayout) -> Configured:
        if (schedule, layout) not in known:
            known[schedule, layout] = choose(schedule, layout)
        return known[schedule, layout]

    return configure


def fixed(target: Target, schedule: str, config: Any) -> Configure:
    """`config` for `schedule`, the defaults for others."""

    def configure(asked: str, layout: CacheLayout) -> Configured:
        chosen = config if asked == schedule else default_of(target, asked, layout)
        return Configured(chosen, "given" if asked == schedule else "default")

    return configure


def default_of(target: Target, schedule: str, layout: CacheLayout) -> Any:
    """The configuration that a schedule has without records. Raises TargetError if none fits."""
    if target.kind == "cuda":
        from tqc.schedules.cuda_config import default_config

        return default_config(schedule, layout, target.arch)
    from tqc.schedules.cpu_config import cpu_config

    return cpu_config(target.isa)


def space_of(target: Target, schedule: str, layout: CacheLayout) -> list[Any]:
    """All configurations of a schedule that fit, the default first."""
    if target.kind == "cuda":
        from tqc.schedules.cuda_config import SCHEDULES

        return list(SCHEDULES[schedule].space(layout, target.arch))
    from tqc.schedules.cpu_config import cpu_space

    return list(cpu_space(schedule, target.isa))


def config_of(target: Target, schedule: str, layout: CacheLayout, values: dict[str, Value]) -> Any:
    """The configuration of a record. Raises TargetError or TypeError if today's schedule does not take its values."""
    if target.kind == "cuda":
        from tqc.schedules.cuda_config import SCHEDULES

        config = SCHEDULES[schedule](**values)
        config.check(layout, target.arch)
        return config
    from tqc.schedules.cpu_config import CpuConfig

    config = CpuConfig(**values)
    if config.isa != target.isa:
        raise TargetError("the record is of another CPU kernel variant", expected=target.isa, found=config.isa)
    return config
