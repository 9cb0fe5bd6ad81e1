"""The document of a run in its folder: kept up to date, so that an interrupted run goes on where it was.

`results.json` is replaced, in one step, whenever a cell is known; `results.csv` and `index.html` when all are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

from tqc.errors import TqcError
from tqc.eval.document import check_same, now
from tqc.files import replace_file

from .results import Bench, Cell, read_results
from .summary import summarised

T = TypeVar("T", bound=Bench)
RESULTS = "results.json"


class Document(Generic[T]):
    """The newest results, and the folder that holds them if there is one."""

    def __init__(self, folder: Path | None, fresh: T, *, force: bool = False) -> None:
        """Takes over the results that lie in `folder` if `fresh` would measure the same: settings, engines,
        machine, versions.

        With `force` they are begun anew. Raises TqcError for results of something else, and where the folder cannot be
        made; nothing is changed then.
        """
        self.folder, self.results, self._commands = folder, fresh, fresh.commands
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TqcError("the results cannot be written", where=str(folder), expected="a folder") from error
        if (folder / RESULTS).exists() and not force:
            self.results = _continued(folder / RESULTS, fresh)

    def done(self, key: tuple) -> bool:
        """Whether the cell with this key is there and needs no other try."""
        return any(cell.key == key and cell.done for cell in self.results.cells)

    def keep(self, field: str, cell: Cell) -> None:
        """Puts a cell into a field of the results, in the place of one with the same key, and the file with it."""
        old = [other for other in getattr(self.results, field) if other.key != cell.key]
        cells = tuple(sorted([*old, cell], key=lambda cell: cell.key))
        commands = tuple(dict.fromkeys((*self.results.commands, *self._commands)))
        changes = {field: cells, "updated": now(), "commands": commands}
        self.results = summarised(self.results.model_copy(update=changes))
        self.write()

    def write(self) -> None:
        if self.folder:
            replace_file(self.folder / RESULTS, self.results.model_dump_json(indent=1).encode() + b"\n")

    def finish(self, files: dict[str, str]) -> None:
        """Writes everything: the results, and other files by name."""
        self.write()
        for name, text in files.items():
            if self.folder:
                replace_file(self.folder / name, text.encode())


def _continued(path: Path, fresh: T) -> T:
    """The old results, with the notes of this run."""
    old = read_results(path)
    pairs: dict[str, tuple[object, object]] = {"kind": (old.kind, fresh.kind)}
    if old.kind == fresh.kind:
        pairs |= {f"settings.{name}": (old.settings.get(name), value) for name, value in fresh.settings.items()}
        pairs |= {f"machine.{name}": (old.machine.get(name), value) for name, value in fresh.machine.items()}
        pairs |= {f"versions.{name}": (old.versions.get(name), value) for name, value in fresh.versions.items()}
        engines = [[engine.digest for engine in getattr(results, "engines", ())] for results in (old, fresh)]
        pairs["engines"] = (engines[0], engines[1])
    check_same(path, pairs, "folder")
    return old.model_copy(update={"notes": fresh.notes})
