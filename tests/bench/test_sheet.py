from __future__ import annotations

import csv
import io

import pytest
from bench_data import attention, attention_cell, model

from tqc.bench.sheet import CSV_HEADER, csv_text


def rows(results):
    return list(csv.DictReader(io.StringIO(csv_text(results))))


def test_a_line_for_each_engine_in_each_cell():
    found = rows(attention(1000, 2000))
    assert len(found) == 8
    assert found[1]["engine"] == "tq4"
    assert (found[1]["phase"], found[1]["heads"], found[1]["calls"]) == ("attention", "4x2x64", "4")
    assert float(found[1]["times_peer_median"]) == pytest.approx(41 / 12)
    assert float(found[1]["share_of_copy"]) == pytest.approx(1e5 / 12e-6 / 1e10)
    assert (found[3]["engine"], found[3]["times_peer_median"]) == ("copy", "")


def test_models_have_phases_and_no_share():
    found = rows(model(64))
    assert [row["phase"] for row in found] == ["prefill", "prefill", "decode", "decode"]
    assert {row["share_of_copy"] for row in found} == {""}
    assert found[2]["tokens"] == "64.0"


def test_a_cell_that_was_skipped_has_a_line():
    cell = attention_cell(64).model_copy(update={"timings": (), "skipped": "needs 9 GiB"})
    (found,) = rows(attention().model_copy(update={"cells": (cell,)}))
    assert (found["context"], found["fault"], found["engine"]) == ("64", "needs 9 GiB", "")
    assert len(found) == len(CSV_HEADER)
