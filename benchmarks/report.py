"""Writes a benchmark's raw numbers (JSON) and its table (Markdown), with the machine and versions they belong to."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqc.bench.machine import PACKAGES, command, machine
from tqc.bench.machine import versions as installed

__all__ = ["PACKAGES", "RESULTS", "command", "machine", "table", "versions", "write"]

RESULTS = Path(__file__).parent / "results"


def versions() -> dict[str, str | None]:
    """Python, the packages that decide the result, and the commit; None for what is not known."""
    found = installed()
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = None
    return found


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def write(output: Path, title: str, method: str, data: dict[str, Any], tables: str) -> None:
    """Writes `output`.json (everything) and `output`.md (the tables and where they come from)."""
    output.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "benchmark": title,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command(sys.argv),
        "machine": machine(),
        "versions": versions(),
        "method": method,
    }
    output.with_suffix(".json").write_text(json.dumps(about | data, indent=1) + "\n")
    host = about["machine"]
    place = f"{host['processor']}, {host['cores']} cores, {' '.join(host['simd'])}; {about['date']}"
    known = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    output.with_suffix(".md").write_text(f"# {title}\n\n{place}.\n\n{known}.\n\n{method}\n\n{tables}")
