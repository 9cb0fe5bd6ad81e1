"""The document of a run: kept up to date in a file, so that an interrupted run goes on where it was."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqc.errors import TqcError
from tqc.eval.results import SECTIONS, Hardware, Results, Section, read_results, write_results

COMPARED: frozenset[Section] = frozenset(["fidelity", "retrieval"])
"""Sections that run the reference as well."""


class Document:
    """The newest results, and the file that holds them if there is one."""

    def __init__(self, path: Path | None, fresh: Results, *, force: bool = False) -> None:
        """Takes the results in `path` over if they are of the same artifact, text, reference and device as `fresh`.

        Sections that both have settings for must have the same settings. With `force` the file is begun anew. Raises
        TqcError for a file that is of something else or cannot be read or written; nothing is changed then.
        """
        self.path, self.results = path, fresh
        if path is None:
            return
        if path.is_dir() or not path.parent.is_dir():
            raise TqcError("the results cannot be written", where=str(path), expected="a file in a folder that exists")
        if path.exists() and not force:
            self.results = _continued(path, read_results(path), fresh)
        write_results(path, self.results)

    def finished(self, section: Section) -> bool:
        return section in self.results.finished

    def update(self, **changes: Any) -> None:
        """Replaces fields, and the file with them."""
        self.results = self.results.model_copy(update={**changes, "updated": now()})
        if self.path:
            write_results(self.path, self.results)

    def finish(self, section: Section, seconds: float, **changes: Any) -> None:
        """`update`, and the section is complete after that many seconds of this run."""
        before = self.results.seconds.get(section, 0.0)
        self.update(
            **changes,
            finished=(*self.results.finished, section),
            seconds={**self.results.seconds, section: round(before + seconds, 3)},
        )


def _continued(path: Path, old: Results, fresh: Results) -> Results:
    """The old results with what sections that are new in `fresh` need."""
    both = set(old.settings) & set(fresh.settings)
    pairs: dict[str, tuple[object, object]] = {
        "artifact": (old.artifact.digest, fresh.artifact.digest),
        "device": (old.hardware.device, fresh.hardware.device),
    }
    if old.text and fresh.text:
        pairs["text"] = (old.text.sha256, fresh.text.sha256)
    if COMPARED & set(old.settings) and COMPARED & set(fresh.settings):
        pairs["reference"] = tuple(model.reference and model.reference.digest for model in (old, fresh))
    pairs |= {section: (old.settings[section], fresh.settings[section]) for section in SECTIONS if section in both}
    check_same(path, pairs, "file")
    return old.model_copy(
        update={
            "settings": {**old.settings, **fresh.settings},
            "reference": old.reference or fresh.reference,
            "text": old.text or fresh.text,
        }
    )


def check_same(path: Path, pairs: Mapping[str, tuple[object, object]], place: str) -> None:
    """`pairs`: what results depend on → (as the file has it, as this run has it). Raises TqcError for the first that
    differs; another `place`, a file or a folder, can be chosen for the results then."""
    for what, (held, wanted) in pairs.items():
        if held != wanted:
            raise TqcError(
                "these results were measured with something else",
                where=f"{what} in {path}",
                expected=_words(wanted),
                found=_words(held),
                hint=f"choose another {place} with -o, or begin anew with --force",
            )


def _words(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_words(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "none")


def now() -> str:
    """The time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def hardware(device: str) -> Hardware:
    """This machine, and the device that the session runs on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Model name"))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = names[0] if names else platform.processor() or platform.machine()
    return Hardware(system=f"{platform.system()} {platform.machine()}", cpu=cpu, cores=cores, device=device)
