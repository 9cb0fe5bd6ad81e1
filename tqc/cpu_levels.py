"""The x86-64 micro-architecture levels (psABI) and the `/proc/cpuinfo` flags a machine needs for each.

A leaf: the compiler names levels, the runtime checks them before it loads machine code.
"""

from __future__ import annotations

_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

REQUIRED_FLAGS: dict[str, tuple[str, ...]] = {"x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}
"""Level → names of its flags in `/proc/cpuinfo`, from the lowest level to the highest."""


def missing_flags(level: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The flags that `level` needs and a machine with `flags` lacks, in the order of the table."""
    return tuple(flag for flag in REQUIRED_FLAGS[level] if flag not in flags)


def best_level(flags: frozenset[str]) -> str | None:
    """The highest level that a machine with `flags` reaches; None below x86-64-v2 or on another architecture."""
    return next((level for level in reversed(REQUIRED_FLAGS) if not missing_flags(level, flags)), None)


def machine_flags(cpuinfo: str = "/proc/cpuinfo") -> frozenset[str]:
    """The flags of this machine's first CPU; empty where the file is missing or lists none."""
    try:
        with open(cpuinfo, encoding="utf-8") as file:
            for line in file:
                if line.startswith("flags"):
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        return frozenset()
    return frozenset()
