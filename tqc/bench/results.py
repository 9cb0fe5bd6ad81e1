"""What `tqc bench` found: one document, `results.json` of its folder. Times are seconds, sizes bytes, lengths tokens.

All raw times are there; medians and lines are computed from them and stored beside them for readers of the file.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from tqc.eval.measured import read
from tqc.eval.results import Model, Part

from .fit import BreakEven, Line

SCHEMA_VERSION = 1
Count = Annotated[int, Field(ge=0)]
Rounds = tuple[tuple[float, ...], ...]
Settings = dict[str, int | float | str | list[int] | list[str] | None]


class Timing(Part):
    """One engine or kernel in one cell: seconds of each counted call, a tuple a turn.

    kind: `ours` is what the benchmark is about, `peer` what it is compared with; `append` the kernel that writes a
    token, `copy` the machine's copy bandwidth. `exact`: its cache loses nothing. `bytes`: what a call has to read, or
    for a whole model what its cache takes. `tokens`: in each sequence's cache, mean of the counted steps. `error`:
    relative, against NumPy. `fault`: why there are no times, else empty. `config`: decisions of the kernel.
    """

    name: str
    kind: Literal["ours", "peer", "append", "copy"]
    exact: bool = False
    rounds: Rounds = ()
    bytes: Count | None = None
    tokens: float | None = None
    error: float | None = None
    fault: str = ""
    config: dict[str, int | float | str | bool] = Field(default_factory=dict)

    @property
    def median(self) -> float | None:
        """Of all counted calls; None without any."""
        seconds = [second for turn in self.rounds for second in turn]
        return median(seconds) if seconds else None

    @property
    def minimum(self) -> float | None:
        return min((second for turn in self.rounds for second in turn), default=None)

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second at the median."""
        return self.bytes / self.median if self.bytes and self.median else None


class Cell(Part):
    """What was timed together, taking turns. `heads`: of the layer, as in 32x8x128; empty for whole models.

    `load`: the load average before and after. `skipped`: why nothing was timed.
    """

    batch: Count
    context: Count
    heads: str = ""
    timings: tuple[Timing, ...] = ()
    load: tuple[float | None, float | None] = (None, None)
    skipped: str = ""

    @property
    def key(self) -> tuple:
        """What tells it from other cells of the document."""
        return (type(self).__name__, self.heads, self.batch, self.context)

    @property
    def done(self) -> bool:
        """Whether there is nothing to try again: what only peers could not do counts as done."""
        return not self.skipped and not any(timing.fault for timing in self.timings if timing.kind == "ours")

    def of(self, name: str) -> Timing | None:
        """What `name` took here; None if it has no times."""
        return next((timing for timing in self.timings if timing.name == name and timing.rounds), None)


class AttentionCell(Cell):
    """Decode attention of one layer."""

    def quickest_peer(self, what: Literal["median", "minimum"] = "median") -> Timing | None:
        """The full-precision engine from elsewhere that needs the least time."""
        peers = [timing for timing in self.timings if timing.kind == "peer" and timing.rounds]
        return min(peers, key=lambda timing: getattr(timing, what), default=None)

    @property
    def copied(self) -> float | None:
        """The copy bandwidth: bytes read and written a second."""
        copy = next((timing for timing in self.timings if timing.kind == "copy"), None)
        return copy.bandwidth if copy else None


class DecodeCell(Cell):
    """Steps of whole models. `context`: tokens of each sequence at the end; `capacity`: that it was loaded for."""

    capacity: Count


class PrefillCell(Cell):
    """Prompts of `context` tokens into empty caches."""


class EngineLine(Part):
    """Lines through the medians and through the minima of an engine's times, over the tokens in the cache."""

    heads: str = ""
    batch: Count
    engine: str
    kind: Literal["ours", "peer"]
    median: Line
    minimum: Line


class Crossing(Part):
    """Where an engine of ours is quicker than a peer, by the lines through their medians and through their minima.

    `measured`: the shortest context that was measured from which on it was quicker at all of them, by medians; None if
    it was not at the longest.
    """

    heads: str = ""
    batch: Count
    engine: str
    peer: str
    measured: Count | None
    median: BreakEven
    minimum: BreakEven


class Bench(Part):
    """Base of both documents. `commands`: one for each run that added something; `settings`: what decides numbers."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    updated: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    commands: tuple[str, ...] = ()
    settings: Settings
    notes: tuple[str, ...] = ()
    lines: tuple[EngineLine, ...] = ()
    crossings: tuple[Crossing, ...] = ()


class AttentionBench(Bench):
    kind: Literal["attention"] = "attention"
    cells: tuple[AttentionCell, ...] = ()

    @property
    def steps(self) -> tuple[Cell, ...]:
        """The cells that hold times of one decode step."""
        return self.cells


class ModelBench(Bench):
    """`engines`: the artifact first, then its peers."""

    kind: Literal["model"] = "model"
    engines: tuple[Model, ...]
    decode: tuple[DecodeCell, ...] = ()
    prefill: tuple[PrefillCell, ...] = ()

    @property
    def cells(self) -> tuple[Cell, ...]:
        return (*self.prefill, *self.decode)

    @property
    def steps(self) -> tuple[Cell, ...]:
        return self.decode


Results = AttentionBench | ModelBench


class _File(RootModel[Annotated[Results, Field(discriminator="kind")]]):
    """Either document."""


def read_results(path: Path) -> Results:
    """The document in a file. Raises TqcError if it is none, damaged, or of a newer version."""
    return read(path, _File, "tqc bench -o").root
