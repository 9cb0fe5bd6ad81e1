"""Writing an artifact: everything under a temporary sibling name, then one rename.

A reader never sees half an artifact, and a failure of any kind leaves nothing behind. Nothing written depends on the
clock, the folder or the process, so the same inputs give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import ArtifactError
from .manifest import MANIFEST, PARAMS, FileEntry, Manifest
from .params import Param, write_params

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_artifact(
    out_dir: str | Path,
    *,
    manifest: Manifest,
    libraries: Mapping[str, str | Path | Callable[[Path], object]],
    params: Sequence[Param],
    companions: Mapping[str, Path] | None = None,
    force: bool = False,
) -> Path:
    """Writes the artifact directory `out_dir` and returns its path.

    `manifest` has no `files` yet. `libraries` gives for every file name in `manifest.libraries` a file to copy or a
    function that writes the library to the path it is given. `params` are written in an order of their own; the names
    must be those of `manifest.params`. `companions` (see `companions.companions`) are copied.

    Raises ArtifactError when `out_dir` exists and `force` is not set, when it exists and is not an artifact, when the
    inputs contradict the manifest, or when the disk is full. Errors of `libraries` and `params` pass through.
    """
    out = Path(out_dir).absolute()
    check_output(out, force)
    _check_inputs(manifest, libraries, params)
    _check_space(out, sum(param.nbytes for param in params))
    with _disk_full_is_an_error(out), _temporary_sibling(out) as folder:
        files = {}
        for name, library in libraries.items():
            files[name] = _write_library(folder / name, library)
        files[PARAMS] = _write_params(folder / PARAMS, params)
        for name, source in (companions or {}).items():
            files[name] = _copy(source, folder / name)
        complete = Manifest.model_validate(
            {**dict(manifest), "files": {name: files[name] for name in sorted(files)}, "manifest_sha256": ""}
        )
        _write_bytes(folder / MANIFEST, complete.to_bytes())
        _sync_folder(folder)
        check_output(out, force)  # again: writing took a while
        _replace(folder, out, force)
    return out


def is_artifact(path: Path) -> bool:
    """Whether `path` is a directory with a manifest."""
    return (path / MANIFEST).is_file()


def check_output(out: str | Path, force: bool) -> None:
    """Raises ArtifactError unless `write_artifact` may write to `out`, which is then looked at but not touched."""
    out = Path(out).absolute()
    if not out.parent.is_dir():
        raise ArtifactError("The folder for the artifact does not exist", where=str(out.parent))
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise ArtifactError("The output already exists", where=str(out), hint="choose another name or pass --force")
    if out.is_symlink() or not out.is_dir() or not (is_artifact(out) or not any(out.iterdir())):
        raise ArtifactError(
            "The output exists and is not an artifact, so it is not replaced",
            where=str(out),
            hint="choose another name",
        )


def _check_inputs(manifest: Manifest, libraries: Mapping[str, object], params: Sequence[Param]) -> None:
    for what, announced, given in (
        ("libraries", {library.file for library in manifest.libraries}, set(libraries)),
        ("weights", set(manifest.params), {param.name for param in params}),
    ):
        if announced != given:
            raise ArtifactError(
                f"The {what} are not those the manifest names",
                where=MANIFEST,
                expected=", ".join(sorted(announced - given)) or "no others",
                found=", ".join(sorted(given - announced)) or "these are missing",
            )


def _check_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < needed:
        raise ArtifactError(
            "The disk is full", where=str(out.parent), expected=f"{needed:,} bytes free", found=f"{free:,}"
        )


@contextlib.contextmanager
def _disk_full_is_an_error(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise ArtifactError(
            "The disk is full; nothing was left behind",
            where=str(out.parent),
            found=os.strerror(error.errno),
            hint="free some space or write to another disk",
        ) from error


@contextlib.contextmanager
def _temporary_sibling(out: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        # After the rename there is nothing here any more.
        shutil.rmtree(folder, ignore_errors=True)


def _write_library(path: Path, library: str | Path | Callable[[Path], object]) -> FileEntry:
    if not callable(library):
        return _copy(Path(library), path)
    library(path)
    path.chmod(0o644)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return FileEntry(size=path.stat().st_size, sha256=digest)


def _write_params(path: Path, params: Sequence[Param]) -> FileEntry:
    digest = hashlib.sha256()
    with path.open("xb") as file:
        size = write_params(file, digest, params)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def _copy(source: Path, path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as file, path.open("xb") as out:
        while chunk := file.read(1 << 20):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        out.flush()
        os.fsync(out.fileno())
    return FileEntry(size=size, sha256=digest.hexdigest())


def _write_bytes(path: Path, data: bytes) -> None:
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(folder: Path, out: Path, force: bool) -> None:
    """Puts `folder` where `out` is; an older artifact there is moved aside first and put back if that fails."""
    if not force or not out.exists():
        folder.rename(out)  # the system refuses if somebody put files there in the meantime
    else:
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
        out.rename(aside)
        try:
            folder.rename(out)
        except BaseException:
            aside.rename(out)
            raise
        shutil.rmtree(aside)
    _sync_folder(out.parent)
