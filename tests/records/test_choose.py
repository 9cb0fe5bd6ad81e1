"""Which configuration records speak for."""

from __future__ import annotations

from making import DEFAULT, KERNEL, OTHER, record

from tqc.records.choose import Best, best


def pair(relative: float | None, **where) -> list:
    """The default, and another that takes `relative` times as long."""
    return [record(DEFAULT, 1.0, **where), record(OTHER, relative, **where)]


def test_without_records_of_the_kernel_it_is_the_default():
    assert best([], KERNEL) == "no records"
    assert best(pair(0.5), KERNEL.model_copy(update={"arch": "sm_80"})) == "no records"


def test_the_geometric_mean_over_the_contexts_decides():
    found = best([*pair(0.5, context=2048), *pair(0.72, context=8192)], KERNEL)
    assert isinstance(found, Best)
    assert found.config == OTHER
    assert round(found.relative, 6) == 0.6
    assert str(found) == "records of NVIDIA H100: 1.67 times the default's speed at 2048 to 8192 tokens"
    assert isinstance(best([*pair(0.5, context=2048), *pair(2.5, context=8192)], KERNEL), str)


def test_a_small_gain_is_none():
    assert best(pair(0.99), KERNEL) == "records: none is faster"


def test_contexts_that_the_artifact_does_not_serve_are_left_out():
    records = [*pair(0.5, context=2048), *pair(10.0, context=131072)]
    assert isinstance(best(records, KERNEL), str)
    assert best(records, KERNEL, longest=8192).config == OTHER
    assert best(pair(0.5, context=2048), KERNEL, longest=512).config == OTHER


def test_what_is_wrong_or_missing_somewhere_is_not_chosen():
    assert isinstance(best([*pair(0.5, context=2048), *pair(None, context=8192)], KERNEL), str)
    assert isinstance(best([*pair(0.5, context=2048), record(context=8192)], KERNEL), str)


def test_devices_of_an_architecture_count_alike():
    records = [*pair(0.5, device="NVIDIA H100"), *pair(0.9, device="NVIDIA H200")]
    assert str(best(records, KERNEL)).startswith("records of NVIDIA H100, NVIDIA H200: ")


def test_the_newest_of_a_configuration_counts():
    again = pair(2.0, versions={"nvcc": "14.0"}, date="2027-01-01T00:00:00Z")
    assert best([*again, *pair(0.5)], KERNEL) == "records: none is faster"
