"""Versions that decide whether a library can be loaded: TVM's bytecode and calling convention belong to its release."""

from __future__ import annotations

from importlib.metadata import version

from ..errors import ArtifactError
from .manifest import Manifest


def installed() -> dict[str, str]:
    """The manifest fields `tqc_version`, `tvm_version` and `tvm_ffi_version` of this installation."""
    return {
        "tqc_version": version("turboquant-compiler"),
        "tvm_version": version("apache-tvm"),
        "tvm_ffi_version": version("apache-tvm-ffi"),
    }


def check_versions(manifest: Manifest) -> None:
    """Raises ArtifactError unless the artifact was built with the installed TVM and TVM FFI (post releases aside)."""
    here = installed()
    for field, package in (("tvm_version", "apache-tvm"), ("tvm_ffi_version", "apache-tvm-ffi")):
        built = getattr(manifest, field)
        if _release(built) != _release(here[field]):
            raise ArtifactError(
                f"The artifact was built with another version of {package}",
                where=f"manifest.json: {field}",
                expected=built,
                found=here[field],
                hint=f"install {package}=={built} or compile the model again",
            )


def _release(text: str) -> str:
    return text.split(".post")[0]
