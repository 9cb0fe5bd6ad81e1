"""How many threads the kernels run on."""

from __future__ import annotations

import os
from pathlib import Path

_SYSTEM = Path("/sys/devices/system/cpu")
VARIABLE = "TVM_NUM_THREADS"


def physical_cores(system: Path = _SYSTEM) -> int:
    """Cores this process may use, hardware threads of one core counted once."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        siblings = system / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return max(1, len(cores))


def set_default_threads() -> None:
    """Gives TVM's thread pool a thread a core, unless the environment says how many.

    TVM takes half the processors it sees, supposing two hardware threads a core; on machines with one that leaves half
    of the cores idle. Has an effect only before the first kernel runs.
    """
    os.environ.setdefault(VARIABLE, str(physical_cores()))
