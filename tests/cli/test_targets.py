from __future__ import annotations

import pytest

from tqc import cpu_levels
from tqc.codegen import cuda_toolchain
from tqc.codegen.target import CPU_ISA, CUDA_ARCHS
from tqc.errors import TargetError


@pytest.fixture
def machine(monkeypatch):
    """`machine(level, nvcc)` makes this a machine of that CPU level with or without nvcc."""

    def pretend(level: str, nvcc: bool) -> None:
        def find():
            if not nvcc:
                raise TargetError("nvcc was not found")

        monkeypatch.setattr(cpu_levels, "machine_flags", lambda: frozenset(cpu_levels.REQUIRED_FLAGS[level]))
        monkeypatch.setattr(cuda_toolchain, "find_nvcc", find)

    return pretend


def test_all_architectures_are_listed(tqc):
    out = tqc("targets").out
    for arch in (*CPU_ISA, *CUDA_ARCHS):
        assert f" {arch} " in out


def test_what_the_machine_can_run_and_build(tqc, machine):
    machine("x86-64-v3", nvcc=False)
    rows = {row["arch"]: row for row in tqc("targets", "--json").json}
    assert [rows[level]["runs"] for level in ("x86-64-v2", "x86-64-v3")] == ["", ""]
    assert rows["x86-64-v4"]["runs"].startswith("lacks avx512f")
    assert [level for level in CPU_ISA if rows[level]["default"]] == ["x86-64-v3"]
    assert {rows[arch]["builds"] for arch in CUDA_ARCHS} == {"no nvcc"}
    machine("x86-64-v2", nvcc=True)
    rows = {row["arch"]: row for row in tqc("targets", "--json").json}
    assert {rows[arch]["builds"] for arch in CUDA_ARCHS} == {""}
    assert "avx2" in rows["x86-64-v3"]["runs"]
