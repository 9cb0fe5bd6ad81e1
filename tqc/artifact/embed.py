"""Putting a report into an artifact that exists: listed and digested like every other file, without touching those.

At every moment the directory is a whole artifact: the manifest first forgets the old report, then the file is replaced,
then the manifest lists it again, each by one rename. A crash in between leaves an artifact without a report.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..errors import ArtifactError
from ..files import replace_file
from .manifest import MANIFEST, FileEntry, Manifest
from .verify import read_manifest

REPORT = "report.html"
"""The only name that `embed` writes."""


def embed_report(artifact: str | Path, page: bytes) -> Manifest:
    """Writes `page` as the report of an artifact directory and returns the manifest that lists it.

    Raises ArtifactError when there is no artifact, its manifest is damaged, or it cannot be written.
    """
    folder = Path(artifact)
    manifest = read_manifest(folder)
    if (folder / REPORT).is_dir():
        raise ArtifactError("There is a folder where the report belongs", where=str(folder / REPORT))
    try:
        if REPORT in manifest.files:
            replace_file(folder / MANIFEST, without_report(manifest).to_bytes())
        replace_file(folder / REPORT, page)
        entry = FileEntry(size=len(page), sha256=hashlib.sha256(page).hexdigest())
        replace_file(folder / MANIFEST, _with_files(manifest, {**manifest.files, REPORT: entry}).to_bytes())
    except OSError as error:
        raise ArtifactError(
            "The report cannot be put into the artifact", where=str(folder), found=os.strerror(error.errno or 0)
        ) from error
    return read_manifest(folder)


def without_report(manifest: Manifest) -> Manifest:
    """The manifest as it was compiled."""
    return _with_files(manifest, {name: entry for name, entry in manifest.files.items() if name != REPORT})


def identity(manifest: Manifest) -> str:
    """A digest of what was compiled: the same before and after a report is put in."""
    return without_report(manifest).digest()


def _with_files(manifest: Manifest, files: dict[str, FileEntry]) -> Manifest:
    ordered = {name: files[name] for name in sorted(files)}
    return Manifest.model_validate({**dict(manifest), "files": ordered, "manifest_sha256": ""})
