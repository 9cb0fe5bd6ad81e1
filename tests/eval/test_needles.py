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
