from __future__ import annotations

import json
import os

import pytest

from tqc.errors import TqcError
from tqc.eval.results import (
    SCHEMA_VERSION,
    Cell,
    Fidelity,
    Hardware,
    LayerResult,
    Model,
    Results,
    merged,
    read_results,
    write_results,
)

LAYER = LayerResult(
    layer=0,
    k="tq4",
    v="tq4",
    head_dim=64,
    kv_heads=2,
    bits_k=4.25,
    bits_v=4.25,
    vectors=128,
    key_norm=3.0,
    value_norm=1.0,
)


def document(**changes) -> Results:
    fields = {
        "tqc_version": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "updated": "2026-01-01T00:00:00+00:00",
        "artifact": Model(name="a.tqc", digest="0" * 64, schemes="tq4"),
        "hardware": Hardware(system="Linux", cpu="some", cores=2, device="cpu"),
    }
    return Results(**fields | changes)


def test_what_is_written_is_read_back(tmp_path):
    cell = Cell(task="needle", length=256, depth=0.5, correct=1, total=2)
    fidelity = Fidelity(wanted=2, tokens=1, window=64, chunk=1, mode="decode", perplexity=3.5)
    full = document(layers=(LAYER,), retrieval=(cell,), fidelity=fidelity, settings={"fidelity": {"tokens": 2}})
    write_results(tmp_path / "r.json", full)
    assert read_results(tmp_path / "r.json") == full
    assert json.loads((tmp_path / "r.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_an_interrupted_write_leaves_the_old_document(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_results(path, document())

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_results(path, document(retrieval=()))
    assert read_results(path) == document()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "JSON"), ("{}", "tqc_version"), ('{"schema_version": 2}', "schema_version"), ("[1]", "object")],
)
def test_what_is_no_document_is_refused(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(TqcError, match=message):
        read_results(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(TqcError, match="cannot be read"):
        read_results(tmp_path / "none.json")


def test_layers_measured_twice_keep_both_measurements():
    distortion = LAYER.model_copy(update={"d_k": 0.01, "d_v": 0.02})
    logits = LAYER.model_copy(update={"logit_sd": 0.3, "vectors": 256})
    (layer,) = merged((distortion,), (logits,))
    assert (layer.d_k, layer.logit_sd, layer.vectors) == (0.01, 0.3, 256)
    assert merged(None, (logits,)) == (logits,)
