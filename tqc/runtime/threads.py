"""How many threads the kernels run on."""

from __future__ import annotations

import os
from pathlib import Path

_SYSTEM = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
VARIABLE = "TVM_NUM_THREADS"


def physical_cores(system: Path = _SYSTEM) -> int:
    """Cores this process may use, hardware threads of one core counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        siblings = system / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return max(1, len(cores))


def quota(file: Path = _QUOTA) -> int | None:
    """Processors' worth of time this container is given (cgroup v2), rounded up; None without a limit."""
    try:
        granted, period = file.read_text().split()
        return max(1, -(-int(granted) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None


def default_threads() -> int:
    """A thread a core, and not more than the container has time for: the pool's threads spin while they wait."""
    cores = physical_cores()
    return min(cores, quota() or cores)


def set_default_threads() -> None:
    """Gives TVM's thread pool `default_threads`, unless the environment says how many.

    TVM takes half the processors it sees, supposing two hardware threads a core; on machines with one that leaves half
    of the cores idle. Has an effect only before the first kernel runs.
    """
    os.environ.setdefault(VARIABLE, str(default_threads()))
