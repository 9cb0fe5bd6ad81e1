from __future__ import annotations

import pytest

from tqc.codegen.target import CPU_ISA, DEFAULT_CUDA_ARCHS, Target, native_level, parse_targets
from tqc.cpu_levels import REQUIRED_FLAGS, best_level, machine_flags, missing_flags
from tqc.errors import TargetError


def test_cpu_means_the_level_of_this_machine():
    level = native_level()
    assert not missing_flags(level, machine_flags())
    assert parse_targets("cpu") == parse_targets("llvm") == parse_targets("cpu", "native") == (Target("cpu", level),)


def test_cuda_means_the_default_architectures_always_spelled_out():
    targets = parse_targets("cuda")
    assert [target.arch for target in targets] == list(DEFAULT_CUDA_ARCHS)
    assert [target.tvm_target().attrs["arch"] for target in targets] == list(DEFAULT_CUDA_ARCHS)


def test_archs_keep_their_order_and_come_once():
    assert [t.arch for t in parse_targets("cuda", "sm_90a, sm_80,sm_90a")] == ["sm_90a", "sm_80"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"kind": "cuda", "arch": "sm_86"}', Target("cuda", "sm_86")),
        ('{"kind": "llvm", "mcpu": "x86-64-v3"}', Target("cpu", "x86-64-v3")),
        ('{"tag": "nvidia/nvidia-a100"}', Target("cuda", "sm_80")),
        ("nvidia/nvidia-h100", Target("cuda", "sm_90a")),
    ],
)
def test_tvm_targets(text, expected):
    assert parse_targets(text) == (expected,)


@pytest.mark.parametrize(
    ("target", "arch", "message"),
    [
        ("cdua", None, "did you mean 'cuda'"),
        ("rocm", None, "no kernels for the target 'rocm'"),
        ("cuda", "sm_9", "did you mean 'sm_90'"),
        ("cuda", "sm_50", "unknown cuda architecture"),
        ("cpu", "x86-64v3", "did you mean 'x86-64-v3'"),
        ("cpu", " , ", "no architecture is named"),
        ('{"kind": "llvm", "mcpu": "znver4"}', None, "unknown cpu architecture"),
        ('{"kind": "cuda", "arch": "sm_90"}', "sm_80", "given twice"),
        ('{"kind": "cuda", "libs": ["cublas"]}', None, "'libs' would be ignored"),
        ('{"kind": "cuda", "arch": 90}', None, "not a text"),
        ('{"kind": "cuda"', None, "not valid JSON"),
        ("nvidia/geforce-none", None, "no target tag"),
    ],
)
def test_what_is_not_understood_is_refused(target, arch, message):
    with pytest.raises(TargetError, match=message):
        parse_targets(target, arch)


@pytest.mark.parametrize("level", CPU_ISA)
def test_llvm_knows_the_levels(level):
    target = Target("cpu", level)
    assert target.tvm_target().attrs["mcpu"] == level
    assert target.isa == CPU_ISA[level]


def test_host_code_of_cuda_asks_for_little():
    target = Target("cuda", "sm_90")
    assert target.cpu_level == "x86-64-v2"
    assert target.tvm_target().host.attrs["mcpu"] == "x86-64-v2"


def test_levels_contain_each_other_and_the_best_is_found():
    v2, v3, v4 = (frozenset(REQUIRED_FLAGS[level]) for level in REQUIRED_FLAGS)
    assert v2 < v3 < v4
    assert best_level(v4) == "x86-64-v4"
    assert best_level(v4 - {"avx512dq"}) == "x86-64-v3"
    assert best_level(v3 - {"fma"}) == "x86-64-v2"
    assert best_level(frozenset()) is None
    assert missing_flags("x86-64-v4", v4 - {"avx2", "avx512f"}) == ("avx2", "avx512f")


def test_cpuinfo_is_read(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse avx2\nflags : other\n")
    assert machine_flags(str(tmp_path / "cpuinfo")) == {"fpu", "sse", "avx2"}
    assert machine_flags(str(tmp_path / "none")) == frozenset()
