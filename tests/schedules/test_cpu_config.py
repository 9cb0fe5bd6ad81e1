from __future__ import annotations

import pytest
from tvm.target import Target

from tqc.errors import TargetError
from tqc.schedules.cpu_config import CpuConfig, config_for, cpu_config


@pytest.mark.parametrize(
    ("mcpu", "isa", "lanes"), [("x86-64-v4", "avx512", 16), ("x86-64-v3", "avx2", 8), ("x86-64-v2", "portable", 4)]
)
def test_a_target_gets_its_widest_variant(mcpu: str, isa: str, lanes: int) -> None:
    config = config_for(Target({"kind": "llvm", "mcpu": mcpu}))
    assert (config.isa, config.lanes) == (isa, lanes)
    assert config == cpu_config(isa)


def test_options_replace_defaults() -> None:
    config = cpu_config("avx2", splits=9)
    assert config.splits == 9
    assert config.tile_rows == cpu_config("avx2").tile_rows


def test_wrong_values_are_refused() -> None:
    with pytest.raises(TargetError, match="sse9"):
        CpuConfig(isa="sse9")
    with pytest.raises(TargetError, match="sse9"):
        cpu_config("sse9")
    with pytest.raises(TargetError, match="splits"):
        CpuConfig(splits=0)
    with pytest.raises(TargetError, match="llvm"):
        config_for(Target({"kind": "c"}))
