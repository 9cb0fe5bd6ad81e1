"""Logs: appended to on the disk, resumed, torn lines dropped, others refused."""

from __future__ import annotations

import pytest
from making import OTHER, record

from tqc.errors import TqcError
from tqc.records.log import TuneLog, log_path, read_log, records_in, shipped_records


def test_records_are_appended_and_duplicates_skipped(tmp_path):
    path = tmp_path / "logs" / "gpu.jsonl"
    with TuneLog(path) as log:
        assert not path.exists()
        log.append(record())
        log.append(record(date="later"))
        log.append(record(OTHER, None))
    with TuneLog(path) as log:
        assert len(log.records) == 2
        assert record().key in log
        assert record(context=4096).key not in log
        log.append(record(context=4096))
    assert len(read_log(path)[0]) == 3


def test_every_record_is_on_the_disk_before_the_next(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(file))
    with TuneLog(tmp_path / "gpu.jsonl") as log:
        log.append(record())
        log.append(record(OTHER))
    assert len(synced) == 2


def test_a_last_line_that_was_cut_off_is_dropped(tmp_path):
    path = tmp_path / "gpu.jsonl"
    whole = record().model_dump_json() + "\n"
    path.write_text(whole + record(OTHER).model_dump_json()[:40])
    with TuneLog(path) as log:
        assert log.torn
        assert len(log.records) == 1
        log.append(record(context=4096))
    assert path.read_text() == whole + record(context=4096).model_dump_json() + "\n"


def test_any_other_line_that_is_no_record_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "gpu.jsonl"
    path.write_text(record().model_dump_json() + '\n{"format": 2}\n')
    with pytest.raises(TqcError, match=r"gpu\.jsonl:2"):
        TuneLog(path)


def test_two_processes_do_not_write_one_log(tmp_path):
    with TuneLog(tmp_path / "gpu.jsonl") as first, TuneLog(tmp_path / "gpu.jsonl") as second:
        first.append(record())
        with pytest.raises(TqcError, match="Another process"):
            second.append(record(OTHER))


def test_folders(tmp_path):
    with pytest.raises(TqcError, match="no log"):
        records_in(tmp_path)
    path = log_path(tmp_path, "NVIDIA H100 80GB HBM3")
    assert path.name == "nvidia-h100-80gb-hbm3.jsonl"
    with TuneLog(path) as log:
        log.append(record())
    assert records_in(tmp_path) == [record()]
    assert isinstance(shipped_records(), list)
