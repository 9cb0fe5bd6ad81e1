"""Which CUDA library of an artifact fits a GPU."""

from __future__ import annotations

from ..artifact.manifest import Library, Manifest
from ..errors import ArtifactError
from .cpu import describe


def fits(arch: str, capability: tuple[int, int]) -> bool:
    """Whether device code for `arch` runs on a GPU of that compute capability.

    `sm_90` runs on 9.0 and later minor versions of the same major one; `sm_90a` on 9.0 only.
    """
    digits = arch.removeprefix("sm_")
    exact = not digits.isdigit()
    number = int(digits.rstrip("af"))
    major, minor = divmod(number, 10)
    return capability == (major, minor) if exact else capability[0] == major and capability[1] >= minor


def choose_cuda(manifest: Manifest, capability: tuple[int, int]) -> Library:
    """The CUDA library closest to `capability`. Its `arch` is one name or several joined by commas.

    Raises ArtifactError when none fits.
    """
    libraries = [library for library in manifest.libraries if library.kind == "cuda"]
    usable = [(arch, library) for library in libraries for arch in library.arch.split(",") if fits(arch, capability)]
    if not usable:
        raise ArtifactError(
            "No library of the artifact runs on this GPU",
            expected=f"cuda sm_{capability[0]}{capability[1]}",
            found=describe(manifest),
            hint=f"compile it again with --target cuda --arch sm_{capability[0]}{capability[1]}",
        )
    return max(usable, key=lambda pair: (int(pair[0].removeprefix("sm_").rstrip("af")), pair[0]))[1]
