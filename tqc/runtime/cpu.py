"""Which library of an artifact this machine can run, decided before any of them is mapped."""

from __future__ import annotations

from ..artifact.manifest import Library, Manifest
from ..cpu_levels import REQUIRED_FLAGS, machine_flags, missing_flags
from ..errors import ArtifactError


def choose_cpu(manifest: Manifest, flags: frozenset[str] | None = None) -> Library:
    """The CPU library with the highest level that a machine with `flags` (this one's by default) can run.

    Raises ArtifactError when there is none, naming what each one lacks.
    """
    flags = machine_flags() if flags is None else flags
    libraries = [library for library in manifest.libraries if library.kind == "cpu"]
    if not libraries:
        raise ArtifactError(
            "The artifact has no library for this device",
            expected="cpu",
            found=describe(manifest),
            hint="compile it again with --target cpu",
        )
    lacking = {library.file: _lacks(library.cpu_level, flags) for library in libraries}
    usable = [library for library in libraries if not lacking[library.file]]
    if not usable:
        raise ArtifactError(
            "No library of the artifact runs on this processor",
            found="; ".join(f"{file} needs {needs}" for file, needs in lacking.items()),
            hint="compile it again on this machine or with a lower --arch",
        )
    order = list(REQUIRED_FLAGS)
    return max(usable, key=lambda library: order.index(library.cpu_level) if library.cpu_level else -1)


def check_host(library: Library, flags: frozenset[str] | None = None) -> None:
    """Raises ArtifactError when this machine's CPU cannot run the host code of `library`."""
    if needs := _lacks(library.cpu_level, machine_flags() if flags is None else flags):
        raise ArtifactError("The library does not run on this processor", where=library.file, found=f"it needs {needs}")


def describe(manifest: Manifest) -> str:
    """The devices an artifact was compiled for, as `cpu x86-64-v3, cuda sm_90`."""
    return ", ".join(f"{library.kind} {library.arch}" for library in manifest.libraries)


def _lacks(level: str | None, flags: frozenset[str]) -> str:
    if level is None:
        return ""
    if level not in REQUIRED_FLAGS:
        return f"{level}, which this tqc does not know"
    return ", ".join(missing_flags(level, flags))
