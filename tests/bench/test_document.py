from __future__ import annotations

import pytest
from bench_data import attention, attention_cell, decode_cell, model

from tqc.bench.document import Document
from tqc.bench.results import Timing, read_results
from tqc.errors import TqcError


def test_every_cell_is_in_the_file_with_the_lines(tmp_path):
    document = Document(tmp_path / "out", attention())
    for context in (2048, 64):
        document.keep("cells", attention_cell(context))
    assert read_results(tmp_path / "out" / "results.json") == document.results
    assert [cell.context for cell in document.results.cells] == [64, 2048]
    assert len(document.results.lines) == 2


def test_a_second_run_goes_on(tmp_path):
    Document(tmp_path, attention(commands=("one",))).keep("cells", attention_cell(64))
    document = Document(tmp_path, attention(commands=("two",)))
    assert document.done(attention_cell(64).key)
    assert not document.done(attention_cell(128).key)
    assert document.results.commands == ("one",)  # the second added nothing yet
    document.keep("cells", attention_cell(128))
    assert document.results.commands == ("one", "two")
    assert not Document(tmp_path, attention(), force=True).done(attention_cell(64).key)


def test_a_cell_that_failed_is_measured_again_in_its_place(tmp_path):
    document = Document(tmp_path, attention())
    failed = attention_cell(64).model_copy(update={"timings": (Timing(name="tq4", kind="ours", fault="no"),)})
    document.keep("cells", failed)
    assert not document.done(failed.key)
    document.keep("cells", attention_cell(64))
    assert document.results.cells == (attention_cell(64),)


@pytest.mark.parametrize(
    "other",
    [
        model(),
        attention().model_copy(update={"settings": {"target": "cuda", "kv": ["tq4"]}}),
        attention().model_copy(update={"machine": {"processor": "other"}}),
        attention().model_copy(update={"versions": {"numpy": "3"}}),
    ],
)
def test_results_of_something_else_are_refused(other, tmp_path):
    Document(tmp_path, attention()).keep("cells", attention_cell(64))
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(TqcError, match="measured with something else"):
        Document(tmp_path, other)
    assert (tmp_path / "results.json").read_bytes() == before


def test_another_artifact_is_something_else(tmp_path):
    Document(tmp_path, model()).keep("decode", decode_cell(64))
    changed = model().engines[0].model_copy(update={"digest": "new"})
    with pytest.raises(TqcError, match="engines"):
        Document(tmp_path, model().model_copy(update={"engines": (changed,)}))


def test_without_a_folder_nothing_is_written_and_a_file_is_none(tmp_path):
    document = Document(None, attention())
    document.keep("cells", attention_cell(64))
    document.finish({"a": "b"})
    (tmp_path / "file").write_text("")
    with pytest.raises(TqcError, match="cannot be written"):
        Document(tmp_path / "file", attention())


def test_finishing_writes_everything(tmp_path):
    Document(tmp_path, attention(64)).finish({"results.csv": "a,b\n"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]
