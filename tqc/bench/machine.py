"""What a time belongs to: the machine, how busy it was, the versions, the command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("turboquant-compiler", "apache-tvm", "apache-tvm-ffi", "onnxruntime", "numpy", "torch", "flashinfer-python")
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


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str | None]:
    """Python and the packages that decide the result; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def load_average() -> float | None:
    """Processes that ran or waited in the last minute, on average; None where the system does not count them."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def free_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can still be allocated without swapping; None where the system does not say."""
    if not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def command(words: Sequence[str]) -> str:
    """The command line without folders that only this machine has: absolute paths lose theirs."""
    return " ".join(Path(word).name if Path(word).is_absolute() else word for word in words)
