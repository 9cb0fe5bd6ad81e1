from __future__ import annotations

import pytest
from bench_data import attention, attention_cell, model

from tqc.bench.charts import figures


def test_kernels_have_times_and_bandwidth_for_each_layer_and_batch():
    cells = tuple(attention_cell(n, batch=batch) for batch in (1, 8) for n in (64, 1024))
    drawn = figures(attention().model_copy(update={"cells": cells}))
    assert [heading for heading, _ in drawn] == [
        *("Time of a step, 4x2x64, batch 1", "Share of the copy bandwidth, 4x2x64, batch 1"),
        *("Time of a step, 4x2x64, batch 8", "Share of the copy bandwidth, 4x2x64, batch 8"),
    ]
    torch, tq4 = drawn[0][1].data
    assert (torch.name, torch.line.dash, tq4.name, tq4.line.dash) == ("torch", "dot", "tq4", None)
    assert list(tq4.x) == [64, 1024]
    assert list(tq4.y) == pytest.approx([2.64e-3, 12.24e-3])
    assert list(tq4.error_y.arrayminus) == pytest.approx([1.32e-3, 6.12e-3])
    assert list(drawn[1][1].data[1].y) == pytest.approx([100 * 6400 / 2.64e-6 / 1e10, 100 * 102400 / 12.24e-6 / 1e10])


def test_models_have_times():
    ((heading, figure),) = figures(model(64, 1024))
    assert heading == "Time of a step, batch 1"
    assert [trace.name for trace in figure.data] == ["m-tq4", "m-fp16"]


def test_what_was_not_timed_is_not_drawn():
    empty = attention_cell(64).model_copy(update={"timings": ()})
    assert figures(attention().model_copy(update={"cells": (empty,)})) == []
    assert figures(model()) == []
