"""Logs of records: a line of JSON each, only ever appended to, on disk before the next is measured."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from tqc.errors import TqcError

from .record import Record


class TuneLog:
    """The log of one device, which this process alone appends to until it is closed.

    `torn`: whether the last line was cut off, as by a loss of power; it is dropped. Raises TqcError if another process
    has the log, or a line before the last cannot be read. The file is made by the first `append`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, -1
        self.records, self.torn = read_log(path)
        self._keys = {record.key for record in self.records}

    def __contains__(self, key: tuple) -> bool:
        """Whether there is a record with this `key`."""
        return key in self._keys

    def append(self, record: Record) -> None:
        """Writes a record through to the disk, unless there is one with its key."""
        if record.key in self._keys:
            return
        if self._file < 0:
            self._open()
        os.write(self._file, record.model_dump_json().encode() + b"\n")
        os.fsync(self._file)
        self.records.append(record)
        self._keys.add(record.key)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise TqcError("Another process writes this log", where=str(self.path), hint="wait for it") from error
        if self.torn:
            os.ftruncate(self._file, self.path.read_bytes().rfind(b"\n") + 1)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> TuneLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_log(path: Path) -> tuple[list[Record], bool]:
    """The records of a log, none if it does not exist, and whether its last line was cut off.

    Raises TqcError, naming the line, for any other that is no record.
    """
    *lines, last = (path.read_bytes() if path.exists() else b"").split(b"\n")
    return [_record(line, f"{path.name}:{number}") for number, line in enumerate(lines, 1)], bool(last)


def shipped_records() -> list[Record]:
    """Those of the logs that come with the compiler (`tune_logs`)."""
    return _records(Path(str(resources.files("tqc.tune_logs"))))


def records_in(folder: Path) -> list[Record]:
    """Those of all logs in a folder. Raises TqcError if it has none."""
    if not any(folder.glob("*.jsonl")):
        raise TqcError("There is no log in this folder", where=str(folder), expected="*.jsonl, as tqc tune writes")
    return _records(folder)


def log_path(folder: Path, device: str) -> Path:
    """The log of a device: its name in small letters, dashes for everything else."""
    return folder / (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".jsonl")


def _records(folder: Path) -> list[Record]:
    paths: Iterable[Path] = sorted(folder.glob("*.jsonl"))
    return [record for path in paths for record in read_log(path)[0]]


def _record(line: bytes, where: str) -> Record:
    try:
        return Record.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise TqcError(
            "A line of a log is no record",
            where=where,
            expected="one written by tqc tune of this version or an older one",
            found=f"{field}: {first['msg']}" if field else first["msg"],
        ) from error
