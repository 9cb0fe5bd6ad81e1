"""The tuner on a machine with made-up times."""

from __future__ import annotations

import time

import pytest
from stand_in import LAYOUT, SUBJECT, TARGET, StandIn

from tqc.compiler.configurations import default_of, space_of
from tqc.errors import TqcError
from tqc.records.choose import best
from tqc.records.log import TuneLog
from tqc.records.record import Cell
from tqc.tune.measurer import Measured
from tqc.tune.tuner import HEAT, Limits, tune

CELLS = [Cell(device="stand-in", batch=1, context=context) for context in (1024, 4096)]
DEFAULT = default_of(TARGET, "decode", LAYOUT)


@pytest.fixture
def log(tmp_path):
    with TuneLog(tmp_path / "log.jsonl") as made:
        yield made


def test_the_whole_space_is_recorded_and_the_fastest_chosen(log):
    space = space_of(TARGET, "decode", LAYOUT)
    assert tune(SUBJECT, CELLS, StandIn(), log) == len(space) * len(CELLS)
    assert {record.cell for record in log.records} == set(CELLS)
    found = best(log.records, SUBJECT.kernel)
    assert found.config["warps"] == 1
    assert found.relative == pytest.approx(1 / DEFAULT.warps)
    assert log.records[0].resources.registers == 99
    assert log.records[0].relative == 1.0


def test_a_second_run_goes_on_where_the_first_ended(log):
    first = StandIn()
    assert tune(SUBJECT, CELLS, first, log, Limits(trials=3)) == 3 * len(CELLS)
    log.close()
    with TuneLog(log.path) as again:
        second = StandIn()
        tune(SUBJECT, CELLS, second, again, Limits(trials=HEAT + 1))
        assert set(second.built) & set(first.built) == {DEFAULT}
        assert second.built.count(DEFAULT) == 2  # once with each group
        assert len(again.records) == (3 + HEAT + 1) * len(CELLS)
    with TuneLog(log.path) as last:
        tune(SUBJECT, CELLS, StandIn(), last)
        assert tune(SUBJECT, CELLS, StandIn(), last) == 0


def test_other_compilers_are_measured_again(log):
    tune(SUBJECT, CELLS, StandIn(), log, Limits(trials=2))
    assert tune(SUBJECT, CELLS, StandIn(versions={"tqc": "1"}), log, Limits(trials=2)) == 2 * len(CELLS)


def test_what_cannot_be_built_or_is_wrong_is_a_record_and_not_tried_again(log):
    broken = StandIn(
        refused=lambda config: "spills 8 bytes" if config.warps == 1 else "",
        wrong=lambda config: "wrong result" if config.warps == 2 else "",
    )
    tune(SUBJECT, CELLS, broken, log)
    faults = {record.config["warps"]: record for record in log.records if record.fault}
    assert faults.keys() == {1, 2}
    assert all(record.seconds is None and not record.rounds for record in faults.values())
    assert faults[2].error == 0.5
    assert best(log.records, SUBJECT.kernel) == "records: none is faster"
    assert tune(SUBJECT, CELLS, broken, log) == 0


def test_without_the_default_nothing_is_recorded(log):
    for broken in (StandIn(refused=lambda config: "no nvcc"), StandIn(wrong=lambda config: "wrong result")):
        with pytest.raises(TqcError, match="default configuration"):
            tune(SUBJECT, CELLS, broken, log)
    assert not log.path.exists()


def test_a_candidate_that_takes_the_device_with_it_is_recorded_and_left_out(log):
    class Fragile(StandIn):
        """A kernel of 8 warps fails, and everything after it."""

        def measure(self, subject, cell, built):
            found = super().measure(subject, cell, built)
            bad = next((n for n, each in enumerate(built) if each.job.config.warps == 8), None)
            if bad is None:
                return found
            failed = Measured(fault="CUDA failed")
            return [failed if n in (0, *range(bad, len(found))) else each for n, each in enumerate(found)]

    count = sum(config.warps == 8 for config in space_of(TARGET, "decode", LAYOUT))
    for _ in range(count):
        with pytest.raises(TqcError, match="CUDA failed"):
            tune(SUBJECT, CELLS, Fragile(), log)
    tune(SUBJECT, CELLS, Fragile(), log)
    assert {record.config["warps"] for record in log.records if record.fault} == {8}
    assert len(log.records) == len(space_of(TARGET, "decode", LAYOUT)) * len(CELLS)


def test_limits(log):
    assert tune(SUBJECT, CELLS, StandIn(), log, Limits(minutes=1, start=time.monotonic() - 61)) == 0
    shared = Limits(trials=3, minutes=10, start=time.monotonic() - 60).share(3)
    assert shared.trials == 3
    assert shared.minutes == pytest.approx(3, rel=1e-3)
    assert not shared.over
    assert Limits(minutes=1, start=time.monotonic() - 61).share(2).over
    assert Limits(trials=3).share(2) == Limits(trials=3)
    for wrong in ({"trials": 0}, {"minutes": -1.0}):
        with pytest.raises(TqcError, match="out of range"):
            Limits(**wrong)
