"""Records: what tells them apart, and medians."""

from __future__ import annotations

import pytest
from making import DEFAULT, KERNEL, OTHER, cell, record
from pydantic import ValidationError

from tqc.codec.layout import CacheLayout
from tqc.records.record import Kernel, Record, key, median_of, relative_of


def test_a_record_comes_back_from_json():
    made = record(relative=0.5, error=1e-3)
    assert Record.model_validate_json(made.model_dump_json()) == made


def test_unknown_fields_and_infinite_times_are_refused():
    with pytest.raises(ValidationError):
        record(flavour="x")
    with pytest.raises(ValidationError):
        record(relative=float("inf"))


def test_the_key_is_the_configuration_in_its_cell_by_its_compilers():
    made = record()
    assert made.key == key(KERNEL, cell(), DEFAULT, made.versions)
    assert made.key == record(relative=None, date="later").key
    others = [record(OTHER), record(context=4096), record(versions={"nvcc": "13.1"}), record(device="NVIDIA H200")]
    assert all(made.key != other.key for other in others)


def test_layouts_that_differ_in_sinks_only_share_records():
    layouts = [CacheLayout(32, 8, 128, sinks=sinks, order="fragments", exact_dtype="float16") for sinks in (0, 4)]
    assert {Kernel.of("decode", layout, "sm_90") for layout in layouts} == {KERNEL}
    assert str(KERNEL) == "decode 32:8:128 k:tq4,v:tq4 on sm_90"


def test_medians():
    assert median_of(()) is None
    assert median_of(((1.0, 5.0), (2.0,))) == 2.0


def test_relative_times_compare_the_calls_of_the_same_turn():
    slow_later = (1.0, 1.0), (10.0, 10.0), (100.0, 100.0)
    half = (0.5, 0.5), (5.0, 5.0), (50.0, 50.0)
    assert relative_of(half, slow_later) == 0.5
    assert relative_of((), slow_later) is None
