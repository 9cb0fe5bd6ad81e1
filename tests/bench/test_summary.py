from __future__ import annotations

import pytest
from bench_data import attention, attention_cell, decode_cell, model

from tqc.bench.summary import engine_lines, quicker_from, summarised


def test_slopes_of_kernels_and_where_they_cross():
    found = summarised(attention(64, 1024, 4096))
    slopes = {line.engine: line.median.slope for line in found.lines}
    assert slopes == pytest.approx({"torch": 40e-9, "tq4": 10e-9})
    assert {line.heads for line in found.lines} == {"4x2x64"}
    (crossing,) = found.crossings
    assert (crossing.engine, crossing.peer, crossing.median.where) == ("tq4", "torch", "from")
    assert crossing.median.context == pytest.approx(1e-6 / 30e-9)
    assert crossing.median.beyond  # 33 tokens, and the shortest context has 64


def test_slopes_of_models_are_over_the_tokens_in_the_cache():
    found = summarised(model(1024, 2048))
    assert [line.engine for line in found.lines] == ["m-tq4", "m-fp16"]
    assert found.lines[0].minimum.slope == pytest.approx(0.5e-6)
    assert [crossing.median.where for crossing in found.crossings] == ["always"]


def test_layers_and_batches_have_lines_of_their_own():
    cells = [attention_cell(n, heads, batch) for heads in ("4x2x64", "9x3x64") for batch in (1, 8) for n in (64, 128)]
    found = summarised(attention().model_copy(update={"cells": tuple(cells)}))
    assert len(found.lines) == 8
    assert {(line.heads, line.batch) for line in found.crossings} == {
        (h, b) for h in ("4x2x64", "9x3x64") for b in (1, 8)
    }


def test_one_context_has_no_line():
    assert engine_lines([decode_cell(64)]) == []
    assert summarised(model(64)).crossings == ()
    assert summarised(model()).lines == ()


def test_what_was_measured_says_from_where_on_it_is_quicker():
    cells = [attention_cell(n) for n in (4096, 16, 64)]  # tq4 is slower at 16
    assert quicker_from(cells, "tq4", "torch") == 64
    assert quicker_from(cells, "torch", "tq4") is None
    assert quicker_from(cells, "tq4", "flashinfer") is None
    found = summarised(attention().model_copy(update={"cells": tuple(cells)}))
    assert found.crossings[0].measured == 64
