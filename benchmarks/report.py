"""Writes a benchmark's raw numbers (JSON) and its table (Markdown), with the machine and versions they belong to."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("turboquant-compiler", "apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy", "torch")
SIMD = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_fp16", "amx_int8", "asimd")


def machine() -> dict[str, Any]:
    """Processor, its cores this process may use, memory in GiB, SIMD features; None where the system does not say."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "processor": fields.get("model name") or platform.processor() or None,
        "architecture": platform.machine(),
        "cores": cores,
        "memory_gib": memory,
        "simd": [flag for flag in SIMD if flag in flags],
        "system": platform.platform(),
    }


def versions() -> dict[str, str | None]:
    """Python, the commit, and the packages that decide the result; None for what is not known."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found["commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = None
    return found


def command(arguments: Sequence[str]) -> str:
    """The command line without folders that only this machine has: absolute paths lose theirs."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in arguments)


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
