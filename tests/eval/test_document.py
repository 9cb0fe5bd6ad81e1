from __future__ import annotations

import pytest

from tqc.errors import TqcError
from tqc.eval.document import Document, hardware
from tqc.eval.results import Hardware, Model, Results, Text, read_results

A, B = Model(name="a", digest="a"), Model(name="b", digest="b")
TEXT = Text(name="text", sha256="t", tokens=9)
CPU = Hardware(system="Linux", cpu="some", cores=2, device="cpu")
FIDELITY = {"fidelity": {"tokens": 8}}
BYTES = {"bytes": {"contexts": [64]}}


def fresh(**changes) -> Results:
    fields = {"tqc_version": "0", "created": "now", "updated": "now", "artifact": A, "hardware": CPU}
    return Results(**{**fields, "reference": B, "text": TEXT, "settings": FIDELITY, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.json"


def test_every_update_is_in_the_file(path):
    document = Document(path, fresh())
    assert read_results(path) == document.results
    document.update(seconds={"fidelity": 2.0})
    document.finish("fidelity", 1.5)
    assert read_results(path) == document.results
    assert (document.results.seconds, document.results.finished) == ({"fidelity": 3.5}, ("fidelity",))
    assert document.results.updated != "now"
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_without_a_file_results_are_only_kept():
    document = Document(None, fresh())
    document.finish("fidelity", 0.0)
    assert document.finished("fidelity")


def test_the_same_run_goes_on(path):
    Document(path, fresh()).finish("fidelity", 1.0)
    document = Document(path, fresh(created="later"))
    assert document.finished("fidelity")
    assert document.results.created == "now"


def test_other_sections_are_added(path):
    Document(path, fresh(settings=BYTES, text=None, reference=None)).finish("bytes", 0.0)
    document = Document(path, fresh())
    assert document.finished("bytes")
    assert (document.results.text, document.results.reference) == (TEXT, B)
    assert set(document.results.settings) == {"bytes", "fidelity"}
    assert Document(path, fresh(settings=BYTES, text=None, reference=None)).results.reference == B


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"artifact": B}, "artifact"),
        ({"reference": None}, "reference"),
        ({"text": TEXT.model_copy(update={"sha256": "other"})}, "text"),
        ({"hardware": CPU.model_copy(update={"device": "cuda"})}, "device"),
        ({"settings": {"fidelity": {"tokens": 9}}}, "fidelity"),
    ],
)
def test_results_of_something_else_are_refused_and_kept(path, changes, what):
    Document(path, fresh()).finish("fidelity", 1.0)
    before = path.read_bytes()
    with pytest.raises(TqcError, match=f"where: {what} in"):
        Document(path, fresh(**changes))
    assert path.read_bytes() == before
    assert not Document(path, fresh(**changes), force=True).finished("fidelity")


def test_a_file_that_is_no_document_is_refused_and_kept(path):
    path.write_text("my notes")
    with pytest.raises(TqcError, match="no document"):
        Document(path, fresh())
    assert path.read_text() == "my notes"


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "none" / "results.json"):
        with pytest.raises(TqcError, match="cannot be written"):
            Document(place, fresh())


def test_hardware_says_something():
    found = hardware("cpu")
    assert found.cpu
    assert found.cores >= 1
