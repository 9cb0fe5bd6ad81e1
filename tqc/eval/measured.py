"""What every file of measurements says about itself, and how one is read: a JSON object, checked as far as it is used.

Fields that are not known here are kept out of the way, so that a file may say more than a report shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tqc.errors import TqcError

MAX_BYTES = 64 << 20


class Part(BaseModel):
    """Base of all parts: no conversion between types, never changed, unknown fields ignored, no NaN."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Measured(Part):
    """When, where and how something was measured, as `benchmarks/report.py` writes it."""

    benchmark: str = ""
    date: str = ""
    command: str = ""
    machine: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    method: str = ""

    @property
    def hardware(self) -> str:
        """The machine in a few words; empty if the file does not say."""
        machine = self.machine
        parts = [
            machine.get("gpu"),
            machine.get("processor"),
            f"{machine['cores']} cores" if machine.get("cores") else None,
            f"{machine['memory_gib']} GiB" if machine.get("memory_gib") else None,
        ]
        return ", ".join(str(part) for part in parts if part)


Document = TypeVar("Document", bound=BaseModel)


def read(path: Path, kind: type[Document], made_by: str) -> Document:
    """The document of `kind` in the JSON file `path`. `made_by` is the command that writes such files.

    Raises TqcError when the file is missing, too long, not JSON or lacks what `kind` needs.
    """
    hint = f"make it with {made_by}"
    if not path.is_file():
        raise TqcError("There is no such file of results", where=str(path), hint=hint)
    if path.stat().st_size > MAX_BYTES:
        raise TqcError("The file of results is too long", where=str(path), expected=f"at most {MAX_BYTES:,} bytes")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        where = f"{path}: {field}" if field else str(path)
        raise TqcError("The file of results is not understood", where=where, found=first["msg"], hint=hint) from error
