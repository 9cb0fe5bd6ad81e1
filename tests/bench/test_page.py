from __future__ import annotations

import re

import pytest
from bench_data import attention, model

from tqc.bench.page import origin, render
from tqc.bench.results import Timing
from tqc.bench.summary import summarised

COMMANDS = ("tqc bench attention", "tqc bench attention --force")


@pytest.mark.parametrize("results", [attention(64, 1024), model(64, 1024), attention()])
def test_the_page_loads_nothing(results):
    page = render(summarised(results))
    head, _, rest = page.partition("<script>")
    assert "default-src 'none'" in head
    assert not re.search(r"(src|href)=", head)
    assert page.count('class="plot"') == len(re.findall(r'<script type="application/json">', page))
    assert "Plotly.newPlot" in rest


def test_names_are_escaped_everywhere():
    bad = "</script><b>"
    cell = attention(64).cells[0]
    timings = (*cell.timings, Timing(name=bad, kind="peer", rounds=((1.0,),), fault="<i>"))
    results = attention().model_copy(update={"cells": (cell.model_copy(update={"timings": timings}),)})
    page = render(results)
    assert bad not in page
    assert "&lt;/script&gt;&lt;b&gt;" in page
    assert "\\u003cb" in page


def test_where_the_numbers_come_from():
    rows = origin(attention(64, commands=COMMANDS))
    found = dict(rows)
    assert found["machine"] == "some, 2 cores"
    assert found["device"] == "threads 2"
    assert found["load average"].startswith("0.5 to 1.5")
    assert found["versions"] == "numpy 2"
    assert [words for what, words in rows if what == "command"] == list(COMMANDS)
    assert dict(origin(model()))["load average"] == "not known"
