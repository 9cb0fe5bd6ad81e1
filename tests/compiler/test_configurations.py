"""Where kernels get their configurations from."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from tqc.codec.layout import CacheLayout
from tqc.codegen.target import Target
from tqc.compiler.configurations import by_records, config_of, default_of, fixed, space_of
from tqc.compiler.schedules import backend
from tqc.errors import TargetError
from tqc.records.record import Cell, Kernel, Record

CPU, CUDA = Target("cpu", "x86-64-v3"), Target("cuda", "sm_90")
LAYOUTS = {CPU: CacheLayout(8, 2, 64), CUDA: CacheLayout(8, 2, 64, order="fragments", exact_dtype="float16")}
TARGETS = pytest.mark.parametrize("target", [CPU, CUDA], ids=str)


def records(target: Target, config: dict, relative: float = 0.5) -> list[Record]:
    layout = LAYOUTS[target]
    return [
        Record(
            kernel=Kernel.of("decode", layout, target.arch),
            cell=Cell(device="a device", batch=1, context=2048),
            config=values,
            seconds=1e-3 * time,
            relative=time,
            versions={},
            date="2026-11-30T00:00:00Z",
        )
        for values, time in ((asdict(default_of(target, "decode", layout)), 1.0), (config, relative))
    ]


@TARGETS
def test_spaces_begin_with_the_default_and_hold_nothing_twice(target):
    for schedule in ("append", "decode", "prefill"):
        space = space_of(target, schedule, LAYOUTS[target])
        assert space[0] == default_of(target, schedule, LAYOUTS[target])
        assert len(set(space)) == len(space)
        assert all(config_of(target, schedule, LAYOUTS[target], asdict(config)) == config for config in space)


@TARGETS
def test_the_best_record_is_taken_and_named(target):
    layout = LAYOUTS[target]
    other = space_of(target, "decode", layout)[-1]
    configure = by_records(target, records(target, asdict(other)))
    found = configure("decode", layout)
    assert found.config == other
    assert found.source == "records of a device: 2.00 times the default's speed at 2048 tokens"
    assert found.decisions() == asdict(other) | {"configured": found.source}
    prefill = configure("prefill", layout)
    assert prefill.config == default_of(target, "prefill", layout)
    assert prefill.source == "default, no records"


@TARGETS
def test_a_record_that_no_longer_fits_gives_the_default(target):
    layout = LAYOUTS[target]
    stale = asdict(default_of(target, "decode", layout)) | {"gone": 1}
    found = by_records(target, records(target, stale))("decode", layout)
    assert found.config == default_of(target, "decode", layout)
    assert found.source.startswith("default, the records' does not fit: ")


def test_values_that_break_a_rule_are_refused():
    with pytest.raises(TargetError):
        config_of(CUDA, "decode", LAYOUTS[CUDA], {"warps": 99})
    with pytest.raises(TargetError, match="another CPU kernel variant"):
        config_of(CPU, "decode", LAYOUTS[CPU], {"isa": "avx512"})


def test_the_schedules_of_a_backend_follow():
    layout = LAYOUTS[CPU]
    config = replace(default_of(CPU, "decode", layout), splits=7)
    schedules = backend(CPU, {}, fixed(CPU, "decode", config)).schedules
    assert schedules.decisions("decode", layout)["splits"] == 7
    assert schedules.decisions("prefill", layout)["splits"] == 4
    options = {"softmax_scale": 0.125, "softcap": 0.0, "window": 0}
    plain = backend(CPU, {}, by_records(CPU, ())).schedules.decode(layout, **options)
    assert str(schedules.decode(layout, **options)) != str(plain)
