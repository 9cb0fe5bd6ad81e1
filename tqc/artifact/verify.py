"""Reading an artifact with suspicion: every byte is accounted for before any of it is mapped as code.

The manifest is checked first (size, format version, fields, its own digest), then every file it names (there, regular,
size, digest), then that the weights lie inside their file and that a library was built for this processor. Files the
manifest does not name are never opened, so they are allowed.

The digests find damage and careless edits. They are not a signature: whoever can rewrite the manifest can replace the
code, so load artifacts only from people you trust.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from pydantic_core import from_json

from ..errors import ArtifactError
from .manifest import FORMAT_VERSION, MANIFEST, PARAMS, FileEntry, Manifest
from .params import read_places

MAX_MANIFEST = 64 << 20
Reason = Literal["missing", "not-a-file", "truncated", "size", "changed", "weights", "wrong-arch"]


@dataclass(frozen=True)
class Problem:
    """Why one file is refused."""

    reason: Reason
    file: str
    what: str
    expected: str = ""
    found: str = ""

    def error(self) -> ArtifactError:
        hint = "copy the artifact again or compile it anew"
        return ArtifactError(self.what, where=self.file, expected=self.expected, found=self.found, hint=hint)


def read_manifest(path: str | Path) -> Manifest:
    """The checked manifest of the artifact directory `path`; no other file is touched.

    Raises ArtifactError when the directory or manifest is missing, too new, malformed or changed.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ArtifactError("There is no artifact here", where=str(folder), expected="a directory made by tqc compile")
    file = folder / MANIFEST
    if not file.is_file():
        raise ArtifactError("The artifact has no manifest", where=str(file))
    if file.stat().st_size > MAX_MANIFEST:
        raise ArtifactError("The manifest is too long", where=str(file), expected=f"at most {MAX_MANIFEST:,} bytes")
    text = file.read_bytes()
    _check_version(text, file)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError("The manifest is invalid", where=f"{file}: {field}", found=first["msg"]) from error
    if not manifest.files:
        raise ArtifactError("The manifest is invalid", where=f"{file}: files", found="no files")
    if manifest.manifest_sha256 != (digest := manifest.digest()):
        raise ArtifactError(
            "The manifest was changed", where=str(file), expected=manifest.manifest_sha256, found=digest
        )
    return manifest


def _check_version(text: bytes, file: Path) -> None:
    """The version comes before everything else: a newer format may have any fields."""
    try:
        raw = from_json(text)
    except ValueError as error:
        raise ArtifactError("The manifest is not JSON", where=str(file), found=str(error)) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise ArtifactError("The manifest is invalid", where=f"{file}: format_version", found=repr(version))
    if version > FORMAT_VERSION:
        raise ArtifactError(
            "The artifact is newer than this tqc",
            where=str(file),
            expected=f"format {FORMAT_VERSION} or older",
            found=f"format {version}",
            hint="upgrade turboquant-compiler",
        )


def problems(path: str | Path, manifest: Manifest, *, digests: bool = True) -> Iterator[Problem]:
    """Everything wrong with the files of the artifact `path`, file by file; `digests=False` skips the hashing."""
    folder = Path(path)
    libraries = {library.file for library in manifest.libraries}
    for name, entry in sorted(manifest.files.items()):
        file = folder / name
        found = _content_problem(file, entry, digests)
        if found is None and name in libraries:
            found = _machine_problem(file)
        if found is None and name == PARAMS:
            found = _weights_problem(file, manifest)
        if found is not None:
            yield found


def verify(path: str | Path, *, digests: bool = True) -> Manifest:
    """The manifest of the artifact `path` after checking all its files. Raises ArtifactError for the first problem."""
    manifest = read_manifest(path)
    for problem in problems(path, manifest, digests=digests):
        raise problem.error()
    return manifest


def _content_problem(file: Path, entry: FileEntry, digests: bool) -> Problem | None:
    if not file.exists():
        return Problem("missing", file.name, "A file of the artifact is missing")
    if not file.is_file():
        return Problem("not-a-file", file.name, "A file of the artifact is not a regular file")
    size = file.stat().st_size
    sizes = {"expected": f"{entry.size:,} bytes", "found": f"{size:,} bytes"}
    if size < entry.size:
        return Problem("truncated", file.name, "A file of the artifact is truncated", **sizes)
    if size > entry.size:
        return Problem("size", file.name, "A file of the artifact is longer than it was written", **sizes)
    if digests and (digest := _digest(file)) != entry.sha256:
        return Problem("changed", file.name, "A file of the artifact was changed", entry.sha256, digest)
    return None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _weights_problem(file: Path, manifest: Manifest) -> Problem | None:
    try:
        names = set(read_places(file))
    except ArtifactError as error:
        return Problem("weights", file.name, error.what, error.expected, error.found)
    if names != set(manifest.params):
        odd = ", ".join(sorted(names ^ set(manifest.params))[:5])
        return Problem("weights", file.name, "The weights are not those the manifest names", found=odd)
    return None


def _machine_problem(file: Path) -> Problem | None:
    expected, found = machine_of(Path(sys.executable)), machine_of(file)
    if expected == found:
        return None
    return Problem("wrong-arch", file.name, "A library was built for another processor", expected, found)


_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}


def machine_of(file: Path) -> str:
    """Processor and word size an ELF file was built for, from its header: `x86_64, 64 bit`."""
    with file.open("rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return "not an ELF library"
    order = "little" if head[5] == 1 else "big"
    machine = int.from_bytes(head[18:20], order)
    return f"{_MACHINES.get(machine, f'machine {machine}')}, {64 if head[4] == 2 else 32} bit {order} endian"
