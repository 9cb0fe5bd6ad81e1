from __future__ import annotations

import pytest

from tqc.bench.kernels import generated, layout_of, scheme_list
from tqc.bench.problem import Geometry
from tqc.codegen.target import Target, parse_targets
from tqc.errors import CodecError, TqcError

CPU, (CUDA,) = Target("cpu", "x86-64-v3"), parse_targets("cuda", "sm_90")


def test_lists_of_schemes():
    assert scheme_list("tq4, fp16,tq4") == ["tq4", "fp16"]
    assert scheme_list("k:tq4,v:tq3,k4v2") == ["k:tq4,v:tq3", "k4v2"]
    with pytest.raises(TqcError, match="no scheme"):
        scheme_list(" , ")
    with pytest.raises(CodecError):
        scheme_list("tq4,unknown")


def test_the_cpu_rotates_before_its_kernels():
    kernels = generated(layout_of("tq4", Geometry(4, 2, 64), CPU), CPU)
    assert (kernels.dtype, kernels.turns, set(kernels.functions)) == ("float32", (), {"decode", "append"})
    assert kernels.functions["decode"].attrs["global_symbol"] == "decode"


def test_cuda_kernels_rotate_where_they_can():
    for heads, kv, turns in (
        (Geometry(4, 2, 64), "tq4", {"q", "y"}),
        (Geometry(4, 2, 64), "k:tq4,v:fp16", {"q"}),
        (Geometry(4, 2, 80), "tq4", set()),
        (Geometry(4, 2, 64), "fp16", set()),
    ):
        kernels = generated(layout_of(kv, heads, CUDA), CUDA)
        assert kernels.dtype == "float16"
        assert {side for side, _ in kernels.turns} == turns, (heads, kv)
