from __future__ import annotations

import pytest
from bench_data import attention, attention_cell, model, timing

from tqc.bench.results import Timing, read_results
from tqc.errors import TqcError


def test_statistics_of_all_calls():
    found = timing("a", 2.0, bytes=8)
    assert (found.median, found.minimum, found.bandwidth) == (2.0, 1.0, 4.0)
    empty = Timing(name="a", kind="ours")
    assert (empty.median, empty.minimum, empty.bandwidth) == (None, None, None)


def test_the_quickest_peer_and_the_copy():
    cell = attention_cell(1024)
    assert cell.quickest_peer().name == "torch"
    assert cell.copied == pytest.approx(1e10)
    assert cell.of("tq4").name == "tq4"
    assert cell.of("fp16") is None
    bare = cell.model_copy(update={"timings": ()})
    assert (bare.quickest_peer(), bare.copied) == (None, None)


def test_a_cell_is_done_unless_ours_failed_or_it_was_skipped():
    def failed(kind):
        broken = Timing(name="x", kind=kind, fault="no")
        return attention_cell(64).model_copy(update={"timings": (broken,)})

    assert attention_cell(64).done
    assert failed("peer").done
    assert not failed("ours").done
    assert not attention_cell(64).model_copy(update={"skipped": "too large"}).done


@pytest.mark.parametrize("results", [attention(64, 128), model(64, 128)])
def test_documents_come_back(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results.model_dump_json())
    assert read_results(path) == results


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "attention"}', '{"kind": "other"}'])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(TqcError, match="not understood"):
        read_results(path)
    with pytest.raises(TqcError, match="no such file"):
        read_results(tmp_path / "none.json")
