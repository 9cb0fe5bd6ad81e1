"""What is tuned for a kernel's name or a model."""

from __future__ import annotations

import pytest
from stand_in import TARGET

from tqc.bench.problem import Geometry
from tqc.errors import TargetError, TqcError
from tqc.tune.subjects import check_all, of_kernel, of_model


def test_a_kernel_is_tuned_for_every_pair_of_heads_and_schemes():
    found = of_kernel("decode", [Geometry(8, 2, 64), Geometry(4, 4, 128)], ["tq4", "k4v3"], TARGET)
    assert [str(subject) for subject in found] == [
        f"decode {heads} k:tq4,v:{v} on sm_90" for heads in ("8:2:64", "4:4:128") for v in ("tq4", "tq3")
    ]
    check_all(found)


def test_only_kernels_with_a_reference_are_tuned():
    with pytest.raises(TargetError, match="cannot be tuned"):
        of_kernel("append", [Geometry(8, 2, 64)], ["tq4"], TARGET)


def test_a_layout_without_a_configuration_is_refused():
    with pytest.raises(TqcError, match="No configuration"):
        check_all(of_kernel("decode", [Geometry(8, 2, 40)], ["tq4"], TARGET))


def test_equal_layers_of_a_model_are_tuned_once(tiny_llama_onnx):
    found = of_model(tiny_llama_onnx, ["tq4"], TARGET)
    assert [subject.schedule for subject in found] == ["decode", "prefill"]
