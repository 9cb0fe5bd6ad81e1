from __future__ import annotations

import pytest

from tqc.codegen.target import CUDA_ARCHS
from tqc.errors import TargetError
from tqc.gpu_limits import LIMITS, gpu_limits


def test_every_architecture_has_limits() -> None:
    assert set(LIMITS) == set(CUDA_ARCHS)
    assert gpu_limits("sm_90").block_shared == 227 * 1024
    assert gpu_limits("sm_86").block_shared == 99 * 1024


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(TargetError, match="sm_75"):
        gpu_limits("sm_75")
