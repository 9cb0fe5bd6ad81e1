from __future__ import annotations

import pytest
from bench_data import ListedBench

from tqc.bench.attention import Settings, bench_attention
from tqc.bench.problem import Geometry
from tqc.errors import TqcError

HEADS = [Geometry(4, 2, 64), Geometry(2, 1, 64)]


def test_every_layer_batch_and_context_is_a_cell(tmp_path):
    bench, steps = ListedBench(), []
    document = bench_attention(
        bench, Settings(HEADS, batches=(2, 1), repeats=2), folder=tmp_path, progress=lambda *step: steps.append(step)
    )
    cells = document.results.cells
    assert len(cells) == len(bench.asked) == bench.released == len(steps) == 8
    assert {(cell.heads, cell.batch, cell.context) for cell in cells} == {
        (str(heads), batch, context) for heads in HEADS for batch in (1, 2) for context in (64, 128)
    }
    assert [len(timing.rounds) for timing in cells[0].timings] == [2, 2]
    assert document.results.notes == ("nothing else is measured",)
    assert document.results.settings["repeats"] == 2


def test_only_what_is_missing_is_measured(tmp_path):
    first, second = ListedBench(), ListedBench()
    bench_attention(first, Settings(HEADS[:1], contexts=(64,)), folder=tmp_path)
    document = bench_attention(second, Settings(HEADS[:1], contexts=(64, 96)), folder=tmp_path)
    assert [problem.context for problem in second.asked] == [96]
    assert [cell.context for cell in document.results.cells] == [64, 96]


def test_a_cell_without_room_is_skipped():
    document = bench_attention(ListedBench(free=2000), Settings(HEADS[:1], contexts=(64,)))
    (cell,) = document.results.cells
    assert "GiB that are free" in cell.skipped
    assert cell.timings == ()
    roomy = bench_attention(ListedBench(free=3000), Settings(HEADS[:1], contexts=(64,)))
    assert roomy.results.cells[0].skipped == ""


@pytest.mark.parametrize("options", [{"geometries": []}, {"repeats": 0}, {"contexts": (0,)}, {"batches": (-1,)}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(TqcError, match="out of range"):
        Settings(**{"geometries": HEADS, **options})
