from __future__ import annotations

import json

import pytest

from tqc.errors import TqcError
from tqc.eval.needles import axes, read_needles


def cell(length, depth, found, asked=4):
    return {"length": length, "depth": depth, "found": found, "asked": asked}


def test_scores_places_and_costs(tmp_path):
    file = tmp_path / "needle.json"
    costs = [{"length": 8192, "cache_bytes": 20, "tokens_per_second": 5.0}, {"length": 4096, "cache_bytes": 10}]
    first = {"cache": "tq4", "cells": [cell(4096, 0.0, 4), cell(8192, 0.5, 1)], "costs": costs}
    second = {"cache": "tq2", "cells": [cell(4096, 1.0, 0)]}
    file.write_text(json.dumps({"panels": [first, second]}))
    needles = read_needles(file)
    tq4, tq2 = needles.panels
    assert (tq4.score, tq2.score) == (5 / 8, 0.0)
    assert (tq4.at(8192, 0.5), tq4.at(8192, 0.0)) == (0.25, None)
    assert (tq4.longest.cache_bytes, tq2.longest) == (20, None)
    assert axes(needles.panels) == ([4096, 8192], [0.0, 0.5, 1.0])


@pytest.mark.parametrize("bad", [cell(0, 0.5, 1), cell(4096, 1.5, 1), cell(4096, 0.5, 5), cell(4096, 0.5, 0, 0)])
def test_impossible_cells_are_refused(tmp_path, bad):
    file = tmp_path / "needle.json"
    file.write_text(json.dumps({"panels": [{"cache": "tq4", "cells": [bad]}]}))
    with pytest.raises(TqcError, match="not understood"):
        read_needles(file)


def run(artifact, length, found, haystack=0, speed=100.0):
    return {
        "artifact": artifact,
        "length": length,
        "haystack": haystack,
        "needles": 4,
        "found": found,
        "kv_bytes": length * 10,
        "decode_tokens_per_second": speed,
    }


def test_runs_of_the_benchmark_become_panels(tmp_path):
    file = tmp_path / "needle.json"
    runs = [
        run("needle-tq4", 4096, {"0.0": 4, "1.0": 3}),
        run("needle-tq4", 4096, {"0.0": 3, "1.0": 3}, haystack=1, speed=50.0),
        run("needle-tq3.5", 8192, {"0.5": 0}),
    ]
    file.write_text(json.dumps({"benchmark": "needles", "task": {}, "runs": runs}))
    needles = read_needles(file)
    tq4, other = needles.panels
    assert (needles.benchmark, tq4.cache, other.cache) == ("needles", "tq4", "tq3.5")
    assert (tq4.at(4096, 0.0), tq4.at(4096, 1.0), other.score) == (7 / 8, 6 / 8, 0.0)
    assert (tq4.longest.cache_bytes, tq4.longest.tokens_per_second) == (40960, 75.0)
    file.write_text(json.dumps({"runs": runs[:1]}))
    assert read_needles(file).panels[0].cache == "needle-tq4"


@pytest.mark.parametrize("change", [{"found": {"0.0": 5}}, {"kv_bytes": "many"}, {"needles": 0}, {"found": {"x": 1}}])
def test_impossible_runs_are_refused(tmp_path, change):
    file = tmp_path / "needle.json"
    file.write_text(json.dumps({"runs": [run("a", 4096, {"0.0": 1}) | change]}))
    with pytest.raises(TqcError, match="not understood"):
        read_needles(file)
