"""Tests that run code of a CPU level need a machine that has it."""

import pytest

from tqc.cpu_levels import machine_flags, missing_flags


def needs_level(level: str) -> str:
    """`level`, or the test is skipped with what this machine's CPU lacks."""
    if lacking := missing_flags(level, machine_flags()):
        pytest.skip(f"this CPU is no {level}: it lacks {', '.join(lacking)}")
    return level
