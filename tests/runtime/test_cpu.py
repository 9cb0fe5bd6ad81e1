from __future__ import annotations

import pytest

from tqc.artifact import Library
from tqc.cpu_levels import REQUIRED_FLAGS
from tqc.errors import ArtifactError
from tqc.runtime.cpu import check_host, choose_cpu


def library(level, kind="cpu"):
    return Library(file=f"model-{kind}-{level}.so", kind=kind, arch=str(level), cpu_level=level)


def flags(level):
    return frozenset(REQUIRED_FLAGS[level])


def test_the_highest_level_the_machine_can_run(fake):
    manifest = fake.make_manifest(libraries=(library("x86-64-v2"), library("x86-64-v4"), library("x86-64-v3")))
    for level in ("x86-64-v2", "x86-64-v3", "x86-64-v4"):
        assert choose_cpu(manifest, flags(level)).cpu_level == level


def test_no_level_fits(fake):
    manifest = fake.make_manifest(libraries=(library("x86-64-v4"),))
    with pytest.raises(ArtifactError, match="avx512f"):
        choose_cpu(manifest, flags("x86-64-v3"))
    with pytest.raises(ArtifactError, match="does not know"):
        choose_cpu(fake.make_manifest(libraries=(library("x86-64-v9"),)), flags("x86-64-v4"))


def test_no_cpu_library_at_all(fake):
    manifest = fake.make_manifest(libraries=(library("x86-64-v2", "cuda"),))
    with pytest.raises(ArtifactError, match="no library for this device"):
        choose_cpu(manifest, flags("x86-64-v4"))


def test_a_library_without_a_level_runs_anywhere(fake):
    plain = Library(file="model-cpu-aarch64.so", kind="cpu", arch="aarch64")
    assert choose_cpu(fake.make_manifest(libraries=(plain,)), frozenset()) == plain


def test_host_code_of_a_gpu_library():
    check_host(library("x86-64-v2", "cuda"), flags("x86-64-v2"))
    with pytest.raises(ArtifactError, match="popcnt"):
        check_host(library("x86-64-v2", "cuda"), frozenset())
