"""The artifacts of a report with what was measured of each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqc.artifact import Layer, Manifest, read_manifest
from tqc.artifact.embed import identity
from tqc.errors import TqcError

from .colours import colour
from .needles import Cell, Cost, Panel
from .report_memory import cache_bytes
from .results import Results, read_results

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Subject:
    """One artifact. `dash` tells apart artifacts of one scheme, which have one colour."""

    name: str
    manifest: Manifest
    results: Results | None = None
    dash: str = "solid"

    @property
    def schemes(self) -> str:
        """The scheme of all layers, or `mixed 3.61 bits`."""
        kinds = {(layer.k, layer.v) for layer in self.manifest.layers}
        return pair_name(*kinds.pop()) if len(kinds) == 1 else f"mixed {self.bits:.2f} bits"

    @property
    def bits(self) -> float:
        """Bits of a number, scales included, over all layers and both sides."""
        layers = self.manifest.layers
        return 16 * sum(layer.bytes_per_token for layer in layers) / sum(layer.fp16_bytes_per_token for layer in layers)

    @property
    def colour(self) -> str:
        return colour(self.schemes)

    @property
    def panels(self) -> list[Panel]:
        """Retrieval of the evaluation, a panel for each kind of task."""
        cells = (self.results and self.results.retrieval) or ()
        lengths = sorted({cell.length for cell in cells if cell.total})
        costs = tuple(Cost(length=length, cache_bytes=cache_bytes(self.manifest, length)) for length in lengths)
        tasks = list(dict.fromkeys(cell.task for cell in cells if cell.total))
        return [
            Panel(
                cache=self.name if len(tasks) == 1 else f"{self.name}: {task}",
                cells=tuple(
                    Cell(length=cell.length, depth=cell.depth, found=cell.correct, asked=cell.total)
                    for cell in cells
                    if cell.task == task and cell.total
                ),
                costs=costs,
            )
            for task in tasks
        ]


def pair_name(k: str, v: str) -> str:
    """The shortest name of a pair of schemes: tq4, k4v3, k:qjl3,v:tq3."""
    if k == v:
        return k
    numbers = [name.removeprefix("tq") for name in (k, v)]
    return "k{}v{}".format(*numbers) if all(number.isdigit() for number in numbers) else f"k:{k},v:{v}"


def bits_per_value(layer: Layer, side: str) -> float:
    """Bits of a number of one side, scales included."""
    return 8 * getattr(layer, f"bytes_per_token_{side}") / (layer.kv_heads * layer.head_dim)


def read_subjects(artifacts: Sequence[Path], evaluations: Sequence[Path] = ()) -> list[Subject]:
    """The artifacts with the evaluations that are theirs, whatever order those come in.

    Raises TqcError when one is not an artifact with a cache, or an evaluation is of none of them.
    """
    manifests = [read_manifest(path) for path in artifacts]
    for path, manifest in zip(artifacts, manifests, strict=True):
        if manifest.forward:
            raise TqcError("The model has no cache, so there is nothing to report", where=str(path))
    owners: dict[int, list[Results]] = {}
    for path in evaluations:
        results = read_results(path)
        owners.setdefault(_owner(results, path, artifacts, manifests), []).append(results)
    seen: dict[str, int] = {}
    subjects = []
    for number, (name, manifest) in enumerate(zip(_names(artifacts), manifests, strict=True)):
        subject = Subject(name, manifest, _joined(owners.get(number, [])))
        twin = seen.setdefault(subject.colour, -1) + 1
        seen[subject.colour] = twin
        subjects.append(Subject(name, manifest, subject.results, DASHES[twin % len(DASHES)]))
    return subjects


def _names(artifacts: Sequence[Path]) -> list[str]:
    """Names without folders, with the last folder where two are the same."""
    names = [path.absolute().name.removesuffix(".tqc") for path in artifacts]
    return [
        f"{path.absolute().parent.name}/{name}" if names.count(name) > 1 else name
        for path, name in zip(artifacts, names, strict=True)
    ]


def _owner(results: Results, path: Path, artifacts: Sequence[Path], manifests: Sequence[Manifest]) -> int:
    for number, manifest in enumerate(manifests):
        if results.artifact.digest in (manifest.manifest_sha256, identity(manifest)):
            return number
    named = [artifact for artifact in artifacts if artifact.absolute().name.startswith(results.artifact.name)]
    raise TqcError(
        "This is the evaluation of another artifact",
        where=str(path),
        expected=", ".join(str(artifact) for artifact in artifacts),
        found=f"{results.artifact.name} ({results.artifact.schemes or 'schemes unknown'})",
        hint=f"{named[0]} was compiled again since: evaluate it again" if named else "pass its artifact, too",
    )


def _joined(results: Sequence[Results]) -> Results | None:
    """Several evaluations of one artifact: of each section the last one."""
    if not results:
        return None
    found = results[0]
    for newer in results[1:]:
        sections = {
            name: getattr(newer, name)
            for name in ("reference", "text", "layers", "fidelity", "retrieval", "bytes")
            if getattr(newer, name) is not None
        }
        found = found.model_copy(update=sections)
    return found


def grouped(layers: Sequence[Layer]) -> list[tuple[str, Layer]]:
    """Equal consecutive layers as one: (`0–29`, layer)."""
    groups = []
    for layer, run in itertools.groupby(enumerate(layers), key=lambda pair: pair[1]):
        numbers = [number for number, _ in run]
        groups.append((str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}", layer))
    return groups
