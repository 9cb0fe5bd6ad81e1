from __future__ import annotations

from bench_data import attention, model

from tqc.bench.results import AttentionCell, Timing
from tqc.bench.summary import summarised
from tqc.bench.tables import faults, tables


def by_title(results):
    return {table.title: table for table in tables(summarised(results))}


def test_attention():
    found = by_title(attention(1000, 2000))
    steps = found["Decode attention, 4x2x64, batch 1"]
    assert steps.header[:3] == ["engine", "context", "µs"]
    assert steps.rows[0] == ["torch", "1,000", "41.0", "20.5", "9.8", "98 %", "1.00", "1.00", "1.0e-07"]
    assert steps.rows[1] == ["tq4", "1,000", "12.0", "6.00", "8.3", "83 %", "3.42", "3.42", "2.0e-07"]
    others = found["Appending a token, copying memory"]
    assert [row[0] for row in others.rows] == ["tq4 append", "copy"] * 2
    assert next(row for row in others.rows if row[0] == "copy")[-1] == "10.0"


def test_a_model():
    found = by_title(model(1000, 2000))
    rows = found["Decode, inter-token latency"].rows
    assert rows[0] == ["m-tq4", "1", "1,000", "2.00", "1.00", "500.0", "", "0.0"]
    assert rows[1][-2:] == ["2.50", "0.0"]
    assert found["Prefill"].rows == [["m-tq4", "1", "512", "512", ""], ["m-fp16", "1", "512", "256", "2.00"]]
    slopes = next(table for title, table in found.items() if title.startswith("Time of a step"))
    assert slopes.header == ["engine", "batch", "ns a token", "(minima)", "µs at 0"]
    assert slopes.rows[0] == ["m-tq4", "1", "1,000", "500", "1,000"]
    assert found["Quicker than a peer, batch 1"].rows == [["m-tq4", "m-fp16", "from 1,000", "always", "always"]]


def test_nothing_is_no_table():
    assert tables(attention()) == []


def test_faults_are_named_ours_first():
    broken = Timing(name="flash", kind="peer", fault="no kernel"), Timing(name="tq4", kind="ours", fault="wrong")
    cells = (
        AttentionCell(heads="4x2x64", batch=1, context=64, timings=broken),
        AttentionCell(heads="4x2x64", batch=8, context=64, skipped="needs 9 GiB"),
    )
    assert faults(attention().model_copy(update={"cells": cells})) == [
        "4x2x64, batch 1, context 64: tq4: wrong",
        "4x2x64, batch 8, context 64: not measured, needs 9 GiB",
        "4x2x64, batch 1, context 64: flash: no kernel",
    ]
    assert faults(model(64)) == []
