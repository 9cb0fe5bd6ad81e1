"""A record: one configuration of one kernel, measured or refused on one machine."""

from __future__ import annotations

from statistics import median
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tqc.codec.layout import CacheLayout

FORMAT = 1

Value = int | float | str | bool
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    """No field more, no conversion between types, never changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Kernel(_Part):
    """What a configuration belongs to: a schedule for an architecture, and all of a cache's layout that its speed
    depends on. Sinks and recent tokens are left out: they change which tokens are exact, a few hundred at most."""

    schedule: str
    arch: str
    query_heads: Positive
    kv_heads: Positive
    head_dim: Positive
    k: str
    v: str
    page: Positive
    ring: Count
    order: str
    exact_dtype: str

    @classmethod
    def of(cls, schedule: str, layout: CacheLayout, arch: str) -> Kernel:
        names = cls.model_fields.keys() - {"schedule", "arch"}
        return cls(schedule=schedule, arch=arch, **{name: getattr(layout, name) for name in names})

    def __str__(self) -> str:
        heads = f"{self.query_heads}:{self.kv_heads}:{self.head_dim}"
        return f"{self.schedule} {heads} k:{self.k},v:{self.v} on {self.arch}"


class Cell(_Part):
    """Where it was measured: `device` by its name, `batch` sequences of `context` tokens; `tokens` new ones of each."""

    device: str
    batch: Positive
    context: Positive
    tokens: Positive = 1


class Resources(_Part):
    """Of the attention kernel: registers a thread, bytes of shared memory of a block, bytes of registers spilled."""

    registers: Count
    shared: Count
    spilled: Count


class Record(_Part):
    """One configuration in one cell.

    `rounds`: seconds of every counted call, a tuple for each turn; empty if there is a `fault`, which says why.
    `seconds`: their median. `relative`: its time by that of the default configuration, which took turns with this one,
    see `relative_of`. `error`: the relative error of the result against NumPy. `versions`: of tqc, TVM, nvcc, the
    driver. `date`: UTC, to the second.
    """

    format: Literal[1] = FORMAT
    kernel: Kernel
    cell: Cell
    config: dict[str, Value]
    seconds: float | None = None
    relative: float | None = None
    rounds: tuple[tuple[float, ...], ...] = ()
    error: float | None = None
    fault: str = ""
    resources: Resources | None = None
    versions: dict[str, str]
    date: str

    @property
    def key(self) -> tuple:
        """Equal for what need not be measured again: the same configuration by the same compilers in the same cell."""
        return key(self.kernel, self.cell, self.config, self.versions)


def key(kernel: Kernel, cell: Cell, config: dict[str, Value], versions: dict[str, str]) -> tuple:
    """`Record.key` of a record that is not made yet."""
    return kernel, cell, tuple(sorted(config.items())), tuple(sorted(versions.items()))


Rounds = tuple[tuple[float, ...], ...]


def median_of(rounds: Rounds) -> float | None:
    """Of all calls; None without any."""
    calls = [seconds for turn in rounds for seconds in turn]
    return median(calls) if calls else None


def relative_of(rounds: Rounds, others: Rounds) -> float | None:
    """The time by that of another that took turns with it: the median of the turns' ratios, each of two medians.

    What slows the machine down for a while slows both. None without turns of both.
    """
    ratios = [median(own) / median(other) for own, other in zip(rounds, others, strict=False)]
    return median(ratios) if ratios else None
